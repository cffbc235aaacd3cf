"""The agent run by Microsoft's Agent Framework."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent_framework import Agent, MCPStdioTool
from agent_framework.openai import OpenAIChatCompletionClient

from bench.peers.rounds import INSTRUCTIONS, Ask, Place, main


@asynccontextmanager
async def open_agent(place: Place) -> AsyncIterator[Ask]:
    """Open it."""
    client = OpenAIChatCompletionClient("fake", base_url=place.base_url, api_key="none")
    tool = MCPStdioTool("echo", place.tool_command, args=place.tool_arguments, load_prompts=False)
    async with tool, Agent(client, INSTRUCTIONS, tools=[tool]) as agent:

        async def ask(message: str) -> str:
            text = ""
            async for update in agent.run(message, stream=True):
                if update.role != "tool":
                    text += update.text
            return text

        yield ask


if __name__ == "__main__":
    main(open_agent)
