"""The agent run by LangChain's agent on LangGraph, with langchain-mcp-adapters."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools
from langchain_openai import ChatOpenAI

from bench.peers.rounds import INSTRUCTIONS, Ask, Place, main


@asynccontextmanager
async def open_agent(place: Place) -> AsyncIterator[Ask]:
    """Open it."""
    model = ChatOpenAI(model="fake", base_url=place.base_url, api_key="none", streaming=True)
    server = {"transport": "stdio", "command": place.tool_command, "args": place.tool_arguments}
    async with MultiServerMCPClient({"echo": server}).session("echo") as session:
        agent = create_agent(model, await load_mcp_tools(session), system_prompt=INSTRUCTIONS)

        async def ask(message: str) -> str:
            text = ""
            request = {"messages": [("user", message)]}
            async for chunk, _ in agent.astream(request, stream_mode="messages"):
                if isinstance(chunk, AIMessageChunk):
                    text += chunk.text
            return text

        yield ask


if __name__ == "__main__":
    main(open_agent)
