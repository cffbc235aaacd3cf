"""One connection to one MCP server: the task that owns it, from its start to its end, and the calls on it."""

import asyncio
import difflib
import importlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import structlog

from retinue.errors import McpToolNotFoundError, RetinueError, error_from_facts
from retinue_mcp_host.failures import unavailable
from retinue_mcp_host.model import (
    ConnectionKey,
    Limits,
    OnProgress,
    ServerSpec,
    Tool,
    ToolResult,
)
from retinue_mcp_host.server_requests import Caller

if TYPE_CHECKING:
    from retinue_mcp_host.connection_session import Session

log = structlog.get_logger()

Used = TypeVar("Used")

CLOSE_S = 8.0
"""For leaving a connection: a process's steps (2 + 2 + 1 s) and what the SDK still sends."""
SUPERSEDED_IDLE_S = 10.0
"""How long a connection of an older version is kept unused: a run that began with it may still call."""
MAX_RELISTS = 3
"""How often a list is read again because it changed meanwhile."""


def load_transports() -> ModuleType:
    """The module that opens sessions; importing it imports the SDK."""
    return importlib.import_module("retinue_mcp_host.connection_transports")


class Connection:
    """Opened and closed by `run` in one task, as the SDK wants it. Calls come from any task."""

    def __init__(
        self,
        key: ConnectionKey,
        spec: ServerSpec,
        limits: Limits,
        *,
        on_open: Callable[["Connection"], None],
        on_tools_changed: Callable[["Connection"], None],
        on_end: Callable[["Connection"], None],
    ) -> None:
        self.key = key
        self.spec = spec
        self._limits = limits
        self._on_open = on_open
        self._on_tools_changed = on_tools_changed
        self._on_end = on_end
        self._owner: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._failure: RetinueError | None = None
        self._decided = asyncio.Event()
        """Set when it is open, or has failed."""
        self._was_open = False
        self._ended = False
        self._wake = asyncio.Event()
        self._closing = False
        self._idle_s = spec.idle_timeout_s
        self._calls = 0
        self._last_used = 0.0
        self._tools: dict[str, Tool] | None = None
        self._generation = 0
        self._listing = asyncio.Lock()

    # The owner's part.

    async def run(self) -> None:
        """Connect, stay until idle, gone or closed, and leave. Records its own failure; ends no sibling."""
        if self._closing:
            return
        self._owner = asyncio.current_task()
        try:
            async with AsyncExitStack() as stack:
                await self._stay(stack)
                # Told now, not after the leaving: the next use makes a new connection at once.
                self._end()
                async with asyncio.timeout(CLOSE_S):
                    await stack.aclose()
        except TimeoutError:
            log.warning("connection did not close in time", server=self.spec.name, timeout_s=CLOSE_S)
        except Exception as error:  # noqa: BLE001 - whatever a server brings about stays its own
            self._failure = self._failure or self._unavailable(error)
        finally:
            self._end()

    async def _stay(self, stack: AsyncExitStack) -> None:
        try:
            self._session = await self._open(stack)
            log.debug("connected", server=self.spec.name, version=self.spec.version)
            self._touch()
            self._was_open = True
            self._decided.set()
            self._on_open(self)
            await self._until_done(self._session)
            if self._session.is_gone:
                raise self._session.gone_error()
        except RetinueError as error:
            log.info("connection failed", server=self.spec.name, reason=type(error).__name__)
            self._failure = error

    async def _open(self, stack: AsyncExitStack) -> "Session":
        # Not at the top: the SDK takes half a second to import, and the service answers before that.
        transports = await asyncio.to_thread(load_transports)
        session: Session = await transports.open_session(
            stack, self.spec, self._limits, on_tools_changed=self._tools_changed, on_gone=self._wake.set
        )
        return session

    async def _until_done(self, session: "Session") -> None:
        now = asyncio.get_running_loop().time
        while not (self._closing or session.is_gone):
            left = self._idle_s if self._calls else self._last_used + self._idle_s - now()
            if left <= 0:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _end(self) -> None:
        """Take no more calls, and say so; once."""
        if self._ended:
            return
        self._ended = True
        self._session = None
        self._decided.set()
        self._on_end(self)

    def _unavailable(self, error: BaseException) -> RetinueError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return unavailable(self.spec, f"cannot be reached: {type(error).__name__}: {error}")

    def _tools_changed(self) -> None:
        self._generation += 1
        self._tools = None
        self._on_tools_changed(self)

    def _touch(self) -> None:
        self._last_used = asyncio.get_running_loop().time()

    # What the table asks.

    @property
    def is_open(self) -> bool:
        """Whether a call can be made now."""
        return self._session is not None and not self._session.is_gone

    @property
    def is_over(self) -> bool:
        """Whether no call will be made any more, though its owner may still be leaving."""
        return self._closing or self._ended or (self._session is not None and self._session.is_gone)

    @property
    def was_lost(self) -> bool:
        """Whether it was open and ended by a failure, not because it was idle or closed."""
        return self._was_open and self._failure is not None

    async def opened(self) -> None:
        """Wait until it is open. Raises the RetinueError with which it failed."""
        await self._decided.wait()
        if self._session is None:
            raise self._copy_of_failure()

    def _copy_of_failure(self) -> RetinueError:
        # Each waiter raises its own: one exception raised by many tasks gathers all their tracebacks.
        failure = self._failure or unavailable(self.spec, "is being disconnected")
        return error_from_facts(failure.reason, failure.message, failure.facts)

    def supersede(self) -> None:
        """A newer version is in use: end soon after the last call."""
        self._idle_s = min(self._idle_s, SUPERSEDED_IDLE_S)
        self._wake.set()

    def close(self) -> None:
        """Ask the owner to end it; one that is still connecting breaks off."""
        self._closing = True
        self._wake.set()
        if self._owner is None:
            self._end()
        elif not self._decided.is_set():
            self._owner.cancel()

    # The callers' part.

    async def tools(self) -> dict[str, Tool]:
        """The server's tools by name, in its order. Raises RetinueError."""
        if self._tools is not None:
            return self._tools
        async with self._listing:
            for _ in range(MAX_RELISTS):
                if self._tools is not None:
                    break
                generation = self._generation
                tools = await self._using(lambda session: session.list_tools())
                if generation == self._generation:
                    self._tools = tools
            return self._tools if self._tools is not None else tools

    async def call_tool(
        self, name: str, arguments_json: bytes, caller: Caller, on_progress: OnProgress | None
    ) -> ToolResult:
        """Call a tool. Raises RetinueError. Cancelling the task cancels the request at the server."""
        tools = self._tools
        if tools is None:
            tools = await self.tools()
        if name not in tools:
            raise self._no_tool(name, tools)
        return await self._using(lambda session: session.call_tool(name, arguments_json, caller, on_progress))

    async def _using(self, use: "Callable[[Session], Awaitable[Used]]") -> Used:
        session = self._session
        if session is None:
            raise self._copy_of_failure()
        self._calls += 1
        try:
            return await use(session)
        finally:
            self._calls -= 1
            self._touch()

    def _no_tool(self, name: str, tools: dict[str, Tool]) -> McpToolNotFoundError:
        nearest = next(iter(difflib.get_close_matches(name, tools, n=1)), None)
        hint = f": did you mean {nearest}?" if nearest else f": it has {len(tools)} tools"
        return McpToolNotFoundError(
            f"MCP server {self.spec.name} has no tool {name}{hint}",
            server=self.spec.name,
            tool=name,
            nearest=nearest,
        )
