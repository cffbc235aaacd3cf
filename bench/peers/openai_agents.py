"""The agent run by the OpenAI Agents SDK."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI

from bench.peers.rounds import INSTRUCTIONS, Ask, Place, main


@asynccontextmanager
async def open_agent(place: Place) -> AsyncIterator[Ask]:
    """Open it."""
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(base_url=place.base_url, api_key="none")
    server = MCPServerStdio(
        {"command": place.tool_command, "args": place.tool_arguments},
        cache_tools_list=True,
        client_session_timeout_seconds=60,
    )
    async with client, server:
        model = OpenAIChatCompletionsModel("fake", client)
        agent = Agent(name="agent", instructions=INSTRUCTIONS, model=model, mcp_servers=[server])

        async def ask(message: str) -> str:
            result = Runner.run_streamed(agent, message)
            async for _ in result.stream_events():
                pass
            return str(result.final_output)

        yield ask


if __name__ == "__main__":
    main(open_agent)
