"""One connection to one MCP server: the task that owns it, from its start to its end, and the calls on it."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from retinue.errors import McpTimeoutError, RetinueError, error_from_facts
from retinue_mcp_host.calls.server_requests import Caller
from retinue_mcp_host.connections.known_tools import KnownTools
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.connections.slots import CallSlots
from retinue_mcp_host.failures import SessionLostError, unavailable, why_unreachable
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import (
    ConnectionKey,
    Limits,
    OnProgress,
    ServerInfo,
    ServerSpec,
    Tool,
    ToolResult,
)
from retinue_mcp_host.servers.log import ServerLog

if TYPE_CHECKING:
    from retinue_mcp_host.connections.session import Session
    from retinue_mcp_host.connections.subscriptions import Watcher

log = structlog.get_logger()

Used = TypeVar("Used")

CLOSE_S = 8.0
"""For leaving a connection: a process's steps (2 + 2 + 1 s) and what the SDK still sends."""
SUPERSEDED_IDLE_S = 10.0
"""How long a connection of an older version is kept unused: a run that began with it may still call."""
DOUBT_AFTER = 3
"""Requests in a row that were not answered in time, after which the server is asked whether it is there."""
PING_S = 5.0
"""How long it has for its answer."""


def load_transports() -> ModuleType:
    """The module that opens sessions; importing it imports the SDK."""
    return importlib.import_module("retinue_mcp_host.connections.transports")


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
        revisions: Revisions,
        logins: Logins,
        server_log: ServerLog,
    ) -> None:
        self.key = key
        self.spec = spec
        self._limits = limits
        self._on_open = on_open
        self._on_end = on_end
        self._revisions = revisions
        self._logins = logins
        self._log = server_log
        self.slots = CallSlots(spec)
        self._owner: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self._failure: RetinueError | None = None
        self._decided = asyncio.Event()
        """Set when it is open, or has failed."""
        self._was_open = False
        self._ended = False
        self._left = asyncio.Event()
        """Set when nothing is left of it."""
        self._wake = asyncio.Event()
        self._closing = False
        self._idle_s: float | None = spec.idle_timeout_s
        """None where it is kept for as long as it lives."""
        self._calls = 0
        self._unanswered = 0
        """Requests in a row that were not answered in time."""
        self._last_used = 0.0
        self._tools = KnownTools(spec.name, self._list_tools, lambda: on_tools_changed(self))

    # The owner's part.

    async def run(self) -> None:
        """Connect, stay until idle, gone or closed, and leave. Records its own failure; ends no sibling."""
        if self._closing:
            self._left.set()
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
            self._left.set()

    async def _stay(self, stack: AsyncExitStack) -> None:
        try:
            self._session = await self._open(stack)
            log.debug("connected", server=self.spec.name, version=self.spec.version)
            self._touch()
            self._was_open = True
            self._decided.set()
            self._on_open(self)
            await self._until_done(self._session)
        except RetinueError as error:
            log.info("connection failed", server=self.spec.name, reason=type(error).__name__)
            self._failure = self._failure or error

    async def _open(self, stack: AsyncExitStack) -> "Session":
        # Not at the top: the SDK takes half a second to import, and the service answers before that.
        transports = await asyncio.to_thread(load_transports)
        session: Session = await transports.open_session(
            stack,
            self.spec,
            self._limits,
            Notices(on_tools_changed=self._tools.changed, on_gone=self._wake.set, log=self._log),
            self._revisions,
            self._logins,
        )
        return session

    async def _until_done(self, session: "Session") -> None:
        """Stay until idle or closed. Raises the error of a server that is gone, or hangs."""
        while not self._closing:
            if session.is_gone:
                raise session.gone_error()
            if self._unanswered >= DOUBT_AFTER:
                await self._check(session)
                continue
            left_s = self._left_s()
            if left_s is not None and left_s <= 0:
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _left_s(self) -> float | None:
        """How long it stays if nothing happens; None for as long as it lives."""
        if self._idle_s is None or self._calls:
            return self._idle_s
        return self._last_used + self._idle_s - asyncio.get_running_loop().time()

    async def _check(self, session: "Session") -> None:
        """Ask a server that does not answer whether it is there. Raises McpServerUnavailableError."""
        unanswered, self._unanswered = self._unanswered, 0
        try:
            async with asyncio.timeout(PING_S):
                await session.request("ping", {})
        except (TimeoutError, McpTimeoutError):
            raise unavailable(
                self.spec,
                f"hangs: {unanswered} requests in a row were not answered in time, nor was a ping in "
                f"{PING_S:g} s",
            ) from None
        except RetinueError as error:
            log.debug("a server took no ping", server=self.spec.name, error=error.message)

    def _end(self) -> None:
        """Take no more calls, and say so; once."""
        if self._ended:
            return
        self._ended = True
        self._session = None
        self._decided.set()
        self.slots.close(self._copy_of_failure)
        self._tools.close()
        self._on_end(self)

    def _unavailable(self, error: BaseException) -> RetinueError:
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return unavailable(self.spec, why_unreachable(error))

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

    def settle(self) -> None:
        """Take its server's death in at once, where the owner has not come to it yet."""
        if self._session is not None and self._session.is_gone:
            self._failure = self._failure or self._session.gone_error()
            self._end()

    @property
    def was_lost(self) -> bool:
        """Whether it was open and ended by a failure, not because it was idle or closed."""
        return self._was_open and self._failure is not None

    @property
    def failure(self) -> RetinueError | None:
        """Why it failed; None while it has not."""
        return self._failure

    @property
    def info(self) -> ServerInfo | None:
        """What its server says about itself; None while it is not open."""
        return self._session.info if self._session is not None else None

    @property
    def process_id(self) -> int:
        """Of its server's process; 0 where it has none."""
        return self._session.process_id if self._session is not None else 0

    async def left(self) -> None:
        """Wait until nothing is left of it."""
        await self._left.wait()

    async def opened(self) -> None:
        """Wait until it is open. Raises the RetinueError with which it failed."""
        await self._decided.wait()
        if self._session is None:
            raise self._copy_of_failure()

    def _copy_of_failure(self) -> RetinueError:
        # Each waiter raises its own: one exception raised by many tasks gathers all their tracebacks.
        failure = self._failure or unavailable(self.spec, "is being disconnected")
        return error_from_facts(failure.reason, failure.message, failure.facts)

    def keep(self) -> None:
        """Stay, used or not."""
        self._idle_s = None
        self._wake.set()

    def supersede(self) -> None:
        """A newer version is in use: end soon after the last call."""
        self._idle_s = SUPERSEDED_IDLE_S if self._idle_s is None else min(self._idle_s, SUPERSEDED_IDLE_S)
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
        return await self._tools.get()

    async def _list_tools(self) -> dict[str, Tool]:
        return await self._using(lambda session: session.list_tools())

    async def call_tool(
        self, name: str, arguments_json: bytes, caller: Caller, on_progress: OnProgress | None
    ) -> ToolResult:
        """Call a tool. Raises RetinueError. Cancelling the task cancels the request at the server."""
        await self._tools.check(name)
        if not self.slots.take_now():
            await self.slots.take()
        try:
            return await self._using(
                lambda session: session.call_tool(name, arguments_json, caller, on_progress)
            )
        finally:
            self.slots.give()

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask the server what is no tool call, and return the result as it came. Raises RetinueError."""
        return await self._using(lambda session: session.request(method, params))

    @asynccontextmanager
    async def watching(self, uri: str) -> AsyncIterator["Watcher"]:
        """Be told of changes of a resource; the connection is not idle meanwhile. Raises RetinueError."""
        session = self._session
        if session is None:
            raise self._copy_of_failure()
        self._calls += 1
        try:
            async with session.watch(uri) as watcher:
                yield watcher
        finally:
            self._calls -= 1
            self._touch()

    async def _using(self, use: "Callable[[Session], Awaitable[Used]]") -> Used:
        session = self._session
        if session is None:
            raise self._copy_of_failure()
        self._calls += 1
        try:
            used = await use(session)
        except SessionLostError as lost:
            self._failure = self._failure or lost
            raise
        except McpTimeoutError:
            self._unanswered += 1
            if self._unanswered >= DOUBT_AFTER:
                self._wake.set()
            raise
        else:
            self._unanswered = 0
            return used
        finally:
            self._calls -= 1
            self._touch()
