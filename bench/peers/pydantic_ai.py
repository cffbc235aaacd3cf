"""The agent run by Pydantic AI."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from bench.peers.rounds import INSTRUCTIONS, Ask, Place, main


@asynccontextmanager
async def open_agent(place: Place) -> AsyncIterator[Ask]:
    """Open it."""
    model = OpenAIChatModel("fake", provider=OpenAIProvider(base_url=place.base_url, api_key="none"))
    tools = MCPToolset(StdioTransport(place.tool_command, place.tool_arguments))
    agent = Agent(model, instructions=INSTRUCTIONS, toolsets=[tools])
    async with agent:

        async def ask(message: str) -> str:
            async with agent.run_stream(message) as result:
                async for _ in result.stream_text(delta=True, debounce_by=None):
                    pass
                return await result.get_output()

        yield ask


if __name__ == "__main__":
    main(open_agent)
