"""The tools of one connection: read once, and again after its server says that they are others."""

import asyncio
import difflib
from collections.abc import Awaitable, Callable, Mapping

from retinue.errors import McpToolNotFoundError
from retinue_mcp_host.model import Tool

TELL_EVERY_S = 0.5
"""How often at most those who keep lists of a server's tools are told that it has changed them."""
MAX_RELISTS = 3
"""How often a list is read again because it changed meanwhile."""

Read = Callable[[], Awaitable[dict[str, Tool]]]


class KnownTools:
    """Keeps the list while it holds; `tell` is told now and then that it does not any more."""

    def __init__(self, server: str, read: Read, tell: Callable[[], None]) -> None:
        self._server = server
        self._read = read
        self._tell = tell
        self._tools: dict[str, Tool] | None = None
        self._generation = 0
        self._reading = asyncio.Lock()
        self._telling: asyncio.TimerHandle | None = None
        self._told_generation = 0
        self._closed = False

    async def get(self) -> dict[str, Tool]:
        """The tools by name, in the server's order. Raises RetinueError."""
        if self._tools is not None:
            return self._tools
        async with self._reading:
            for _ in range(MAX_RELISTS):
                if self._tools is not None:
                    break
                generation = self._generation
                tools = await self._read()
                if generation == self._generation:
                    self._tools = tools
            return self._tools if self._tools is not None else tools

    async def check(self, name: str) -> None:
        """Raise McpToolNotFoundError where there is no such tool, and what reading the list raises."""
        tools = self._tools
        if tools is None:
            tools = await self.get()
        if name not in tools:
            raise self._not_found(name, tools)

    def _not_found(self, name: str, tools: Mapping[str, Tool]) -> McpToolNotFoundError:
        nearest = next(iter(difflib.get_close_matches(name, tools, n=1)), None)
        hint = f": did you mean {nearest}?" if nearest else f": it has {len(tools)} tools"
        return McpToolNotFoundError(
            f"MCP server {self._server} has no tool {name}{hint}",
            server=self._server,
            tool=name,
            nearest=nearest,
        )

    def changed(self) -> None:
        """The server says that they are others."""
        self._generation += 1
        self._tools = None
        if self._telling is None:
            self._tell_if_new()

    def _tell_if_new(self) -> None:
        self._telling = None
        if self._told_generation != self._generation and not self._closed:
            self._told_generation = self._generation
            self._telling = asyncio.get_running_loop().call_later(TELL_EVERY_S, self._tell_if_new)
            self._tell()

    def close(self) -> None:
        """Tell nothing any more."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
