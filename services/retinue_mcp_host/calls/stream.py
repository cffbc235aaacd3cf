"""Tool calls that run side by side for one caller, and what happens to them, in order."""

import asyncio
from functools import partial

import structlog

from retinue.errors import (
    CallCancelledError,
    InternalError,
    InvalidArgumentError,
    RetinueError,
    TooManyRunsError,
)
from retinue_mcp_host.calls.calls import ToolCalls
from retinue_mcp_host.model import (
    Batch,
    Progress,
    ServerRequest,
    ServerRequestClosed,
    ToolCall,
    ToolResult,
    Update,
)

log = structlog.get_logger()

MAX_WAITING_UPDATES = 4096
"""Beyond it progress is dropped: who reads so slowly wants the results."""
MAX_WAITING_BYTES = 32 * 1024 * 1024
"""Of results and requests that nobody has taken yet; beyond it no further commands are read."""


class ToolStream:
    """The calls of one stream. Each that is started ends in exactly one result or error.

    The calls run in the task group that it is given; `close` ends them.
    """

    def __init__(self, calls: ToolCalls, tasks: asyncio.TaskGroup, max_calls: int) -> None:
        self._calls = calls
        self._tasks = tasks
        self._max_calls = max_calls
        self._running: dict[int, asyncio.Task[ToolResult | RetinueError]] = {}
        self._batch = Batch()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False
        self._closed = False

    def start(self, call_id: int, call: ToolCall) -> None:
        """Start a call; what cannot be started fails as an update."""
        if call_id in self._running:
            _cancel(self._running[call_id])
            self.refuse(
                call_id, InvalidArgumentError(f"call_id {call_id} was started while it runs: both end here")
            )
            # Its own end says no more: one failure answers for both.
            del self._running[call_id]
        elif len(self._running) >= self._max_calls:
            limit = self._max_calls
            self.refuse(
                call_id,
                TooManyRunsError(f"{limit} calls run on this stream: wait for one to end", limit=limit),
            )
        else:
            task = self._tasks.create_task(self._run(call_id, call))
            self._running[call_id] = task
            task.add_done_callback(partial(self._done, call_id))

    def cancel(self, call_id: int) -> None:
        """Cancel a call; its update still comes. One that does not run has had its last update."""
        task = self._running.get(call_id)
        if task is not None:
            _cancel(task)

    def close_scope(self, namespace: str, scope: str) -> None:
        """A session or run tree is over: connections that are its own are closed."""
        self._calls.close_scope(namespace, scope)

    def refuse(self, call_id: int, error: RetinueError) -> None:
        """Fail a call that was not started."""
        self._push(call_id, error)

    def changed(self, namespace: str, server: str) -> None:
        """Note that a server's tools may be others now."""
        self._batch.changed.add((namespace, server))
        self._wake.set()

    def end(self) -> None:
        """No more commands come: cancel what runs. `next_batch` gives their updates, then None."""
        self._ended = True
        for task in self._running.values():
            _cancel(task)
        self._wake.set()

    def close(self) -> None:
        """Nobody listens any more: cancel what runs."""
        self._closed = True
        self.end()
        self._room.set()

    async def room(self) -> None:
        """Wait until results are being taken."""
        await self._room.wait()

    async def next_batch(self, timeout_s: float | None) -> Batch | None:
        """Wait for what happens next; an empty batch after `timeout_s`, None when all has ended."""
        while not self._batch.updates and not self._batch.changed:
            if self._ended and not self._running:
                return None
            self._wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wake.wait()
            except TimeoutError:
                return Batch()
        batch, self._batch = self._batch, Batch()
        self._waiting_bytes = 0
        self._room.set()
        return batch

    async def _run(self, call_id: int, call: ToolCall) -> ToolResult | RetinueError:
        try:
            return await self._calls.call(
                call, partial(self._progress, call_id), partial(self._request, call_id)
            )
        except RetinueError as error:
            return error
        except Exception:
            log.exception("call failed by a bug", server=call.server, tool=call.tool)
            return InternalError("internal error; the MCP host's log has the details")

    def _progress(self, call_id: int, progress: Progress) -> None:
        if call_id in self._running and len(self._batch.updates) < MAX_WAITING_UPDATES:
            self._push(call_id, progress)

    def _request(self, call_id: int, request: ServerRequest | ServerRequestClosed) -> None:
        if call_id in self._running:
            self._push(call_id, request)

    def _done(self, call_id: int, task: "asyncio.Task[ToolResult | RetinueError]") -> None:
        # In the callback, not in the task: a task that is cancelled before its first step never runs.
        if self._running.get(call_id) is not task:
            return
        del self._running[call_id]
        outcome = CallCancelledError("the call was cancelled") if task.cancelled() else task.result()
        self._push(call_id, outcome)

    def _push(self, call_id: int, update: Update) -> None:
        if self._closed:
            return
        self._batch.updates.append((call_id, update))
        if isinstance(update, ToolResult | ServerRequest):
            self._waiting_bytes += update.size_bytes
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._room.clear()
        self._wake.set()


def _cancel(task: "asyncio.Task[ToolResult | RetinueError]") -> None:
    # Once: a second cancel would break off the first's last word to the server.
    if not task.cancelling():
        task.cancel()
