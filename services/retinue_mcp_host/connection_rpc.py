"""JSON-RPC over a stdio server's pipes: requests by id, their answers and progress, and what the server asks.

It is the SDK's Dispatcher, so that the SDK's ClientSession makes the handshake over it; tool calls go to it
directly. Answers are dispatched as they are read: no task, no queue and no pydantic model for each.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.abc
import orjson
from mcp.shared.dispatcher import CallOptions, OnNotify, OnNotifyIntercept, OnRequest, run_notify_intercept
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, METHOD_NOT_FOUND, REQUEST_TIMEOUT

from retinue_mcp_host.lines import LineSplitter
from retinue_mcp_host.model import OnProgress, Progress
from retinue_mcp_host.process import ServerProcess
from retinue_mcp_host.stderr import StderrTail

ANSWER_TOO_LARGE = -32098
"""Our own code for an answer that was longer than is read."""
NO_RESULT = -32097
"""Our own code for an answer that is neither result nor error."""

_ID_IN_HEAD = re.compile(rb'^\s*\{(?:\s*"jsonrpc"\s*:\s*"2\.0"\s*,)?\s*"id"\s*:\s*(\d{1,18})\s*,')
_TOOLS_CHANGED = "notifications/tools/list_changed"

_Pending = tuple["asyncio.Future[dict[str, Any]]", OnProgress | None]


class PipeRpc:
    """One JSON-RPC session over the pipes of a process."""

    def __init__(
        self,
        tail: StderrTail,
        *,
        max_message_bytes: int,
        on_tools_changed: Callable[[], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.process = ServerProcess(self._feed, self._fail, tail)
        self._lines = LineSplitter(max_message_bytes, self._oversize)
        self._max_message_bytes = max_message_bytes
        self._tail = tail
        self._on_tools_changed = on_tools_changed
        self._on_gone = on_gone
        self._pending: dict[int | str, _Pending] = {}
        self._last_id = 0
        self._intercept: OnNotifyIntercept | None = None
        self._closed = asyncio.Event()

    # What the SDK's session needs.

    async def run(
        self,
        on_request: OnRequest,  # noqa: ARG002 - nothing that a server may ask is offered to it yet
        on_notify: OnNotify,  # noqa: ARG002 - the session has no callbacks of ours
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Stand for the session's receive loop; the reading itself happens as bytes come."""
        self._intercept = on_notify_intercept
        task_status.started()
        await self._closed.wait()

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask and return the result. Raises MCPError."""
        opts = opts or {}
        key = opts.get("request_id") or self._next_id()
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": key, "method": method}
        if params:
            message["params"] = params
        line = orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE)
        try:
            async with asyncio.timeout(opts.get("timeout")):
                return await self._ask(key, line, None, cancellable=opts.get("cancel_on_abandon", True))
        except TimeoutError:
            raise MCPError(REQUEST_TIMEOUT, f"{method} was not answered in time") from None

    async def notify(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,  # noqa: ARG002 - the SDK's signature
    ) -> None:
        """Tell the server something."""
        self._send({"jsonrpc": "2.0", "method": method} | ({"params": dict(params)} if params else {}))

    # Tool calls.

    async def call_tool(
        self, name: str, arguments_json: bytes, meta: Mapping[str, Any], on_progress: OnProgress | None
    ) -> dict[str, Any]:
        """Call a tool and return the result as it came. `arguments_json` is one line, a JSON object.

        Raises MCPError. Cancelling the task cancels the request.
        """
        key = self._next_id()
        # The arguments go as they came: no number loses digits, nothing is built twice.
        line = (
            b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%b,"arguments":%b,"_meta":%b}}\n'
            % (
                key,
                orjson.dumps(name),
                arguments_json,
                orjson.dumps({**meta, "progressToken": key}),
            )
        )
        return await self._ask(key, line, on_progress, cancellable=True)

    async def _ask(
        self, key: int | str, line: bytes, on_progress: OnProgress | None, *, cancellable: bool
    ) -> dict[str, Any]:
        process = self.process
        if not process.writable:
            await process.until_writable()
        if self._closed.is_set():
            raise MCPError(CONNECTION_CLOSED, "the connection is closed")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[key] = (future, on_progress)
        process.write(line)
        try:
            return await future
        except asyncio.CancelledError:
            if cancellable and key in self._pending:
                self._send(
                    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": key}}
                )
            if not future.cancelled():
                future.exception()  # seen: it came together with the cancel
            raise
        finally:
            self._pending.pop(key, None)

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _send(self, message: Mapping[str, Any]) -> None:
        # What waits for no answer is dropped while the server reads nothing: it must not pile up here.
        if self.process.writable:
            self.process.write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Fail what waits for an answer; nothing can be asked any more."""
        self._closed.set()
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(MCPError(CONNECTION_CLOSED, "the connection is closed"))
        self._pending.clear()

    def _fail(self) -> None:
        self.close()
        self._on_gone()

    # What comes in.

    def _feed(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            if not line:
                continue
            try:
                message = orjson.loads(line)
            except orjson.JSONDecodeError:
                message = _lenient(line)
            if type(message) is dict:
                self._dispatch(message)
            elif type(message) is list:  # a batch, as revision 2025-03-26 had it
                for each in message:
                    if type(each) is dict:
                        self._dispatch(each)
            elif line.strip():
                # Not MCP; it often says why the server can not start, so it is kept with stderr.
                self._tail.feed(b"(stdout) " + line + b"\n")

    def _dispatch(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method is None:
            self._answer(message)
        elif not isinstance(method, str):
            return
        elif "id" in message:
            self._asked(message["id"], method)
        elif method == "notifications/progress":
            self._progress(message.get("params"))
        elif method == _TOOLS_CHANGED:
            run_notify_intercept(self._intercept, method, message.get("params"))
            self._on_tools_changed()
        else:
            params = message.get("params")
            run_notify_intercept(self._intercept, method, params if isinstance(params, dict) else None)

    def _answer(self, message: dict[str, Any]) -> None:
        found = self._pending.pop(_key(message.get("id")), None)
        if found is None or found[0].done():
            return  # late, twice, or never asked
        result = message.get("result")
        if type(result) is dict:
            found[0].set_result(result)
            return
        error = message.get("error")
        if not isinstance(error, dict):
            error = {"code": NO_RESULT, "message": "the answer has neither result nor error"}
        code, text = error.get("code"), error.get("message")
        found[0].set_exception(
            MCPError(
                code if type(code) is int else NO_RESULT,
                text if isinstance(text, str) else "",
                error.get("data"),
            )
        )

    def _asked(self, key: Any, method: str) -> None:
        if method == "ping":
            self._send({"jsonrpc": "2.0", "id": key, "result": {}})
        else:
            error = {"code": METHOD_NOT_FOUND, "message": f"{method} is not offered by this client"}
            self._send({"jsonrpc": "2.0", "id": key, "error": error})

    def _progress(self, params: Any) -> None:
        if not isinstance(params, dict):
            return
        found = self._pending.get(_key(params.get("progressToken")))
        done, message = _number(params.get("progress")), params.get("message")
        if found is None or found[1] is None or done is None:
            return
        found[1](Progress(done, _number(params.get("total")), message if isinstance(message, str) else ""))

    def _oversize(self, head: bytes) -> None:
        match = _ID_IN_HEAD.match(head)
        found = self._pending.pop(int(match.group(1)), None) if match else None
        if found is not None and not found[0].done():
            text = f"the answer is longer than {self._max_message_bytes} bytes"
            found[0].set_exception(MCPError(ANSWER_TOO_LARGE, text))


def _key(value: Any) -> int | str:
    """An id as it stands in the table; some servers send numbers back as text."""
    if type(value) is int:
        return value
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 19 else value  # noqa: PLR2004 - int64
    return -1


def _number(value: Any) -> float | None:
    return float(value) if type(value) is int or type(value) is float else None


def _lenient(line: bytes) -> Any:
    """What a line means that is almost JSON: bad UTF-8, NaN, half surrogates. None where it means nothing."""
    try:
        value = json.loads(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
        return orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
