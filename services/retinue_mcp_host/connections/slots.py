"""How many calls are under way on one connection at a time, and who waits for a turn."""

import asyncio
from collections import deque
from collections.abc import Callable

from retinue.errors import McpServerBusyError, McpTimeoutError, RetinueError
from retinue_mcp_host.model import ServerSpec


class CallSlots:
    """The turns of one connection's calls: given in the order in which they are asked for."""

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._failure: Callable[[], RetinueError] | None = None
        self.running = 0
        """Turns that are taken."""

    @property
    def waiting(self) -> int:
        """Calls that wait for a turn."""
        return len(self._waiting)

    def take_now(self) -> bool:
        """Take a turn where one is free."""
        if self.running >= self._spec.max_concurrent_calls:
            return False
        self.running += 1
        return True

    async def take(self) -> None:
        """Wait for a turn, at most as long as a call may take.

        Raises McpServerBusyError, McpTimeoutError, and why the connection has ended. A caller that is
        cancelled leaves the queue.
        """
        if self._failure is not None:
            raise self._failure()
        if self.take_now():
            return
        spec = self._spec
        if len(self._waiting) >= spec.max_queued_calls:
            raise self._busy()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(spec.call_timeout_s):
                await turn
        except TimeoutError:
            self._leave(turn)
            raise McpTimeoutError(
                f"MCP server {spec.name} had no turn for a call in {spec.call_timeout_s:g} s: "
                f"{spec.max_concurrent_calls} are under way; raise the server's max_concurrent_calls if it "
                "can do more at a time",
                server=spec.name,
                namespace=spec.namespace,
                timeout_s=f"{spec.call_timeout_s:g}",
            ) from None
        except BaseException:
            self._leave(turn)
            raise

    def give(self) -> None:
        """Give a turn back: to the next who waits."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    def _leave(self, turn: "asyncio.Future[None]") -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        elif turn.done() and not turn.cancelled() and turn.exception() is None:
            # It came together with the cancel.
            self.give()

    def close(self, failure: Callable[[], RetinueError]) -> None:
        """The connection has ended: nobody gets a turn any more."""
        self._failure = failure
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(failure())

    def _busy(self) -> McpServerBusyError:
        spec = self._spec
        return McpServerBusyError(
            f"MCP server {spec.name} has {spec.max_concurrent_calls} calls under way and "
            f"{spec.max_queued_calls} waiting: call again later, or raise the server's "
            "max_concurrent_calls or max_queued_calls",
            server=spec.name,
            namespace=spec.namespace,
            max_concurrent_calls=spec.max_concurrent_calls,
            max_queued_calls=spec.max_queued_calls,
        )
