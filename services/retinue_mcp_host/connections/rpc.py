"""JSON-RPC with a server: requests by id, their answers and progress, and what the server asks and says.

It is the SDK's Dispatcher, so that the SDK's ClientSession makes the handshake over it; tool calls go to it
directly. Answers are dispatched as they are read: no task, no queue and no pydantic model for each.
"""

import asyncio
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import anyio
import anyio.abc
import orjson
from mcp.shared.dispatcher import CallOptions, OnNotify, OnNotifyIntercept, OnRequest, run_notify_intercept
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_REQUEST, REQUEST_TIMEOUT

from retinue_mcp_host.calls.server_requests import Outcome, RefusedError
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.model import OnProgress, Progress

MAX_BACKLOG_BYTES = 1024 * 1024
"""Of what the server has not read; beyond it notifications and refusals are dropped."""

ANSWER_TOO_LARGE = -32098
"""Our own code for an answer that was longer than is read."""
NO_RESULT = -32097
"""Our own code for an answer that is neither result nor error."""

_VERSION = rb'(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?'
_ID = rb'"id"\s*:\s*(\d{1,18}|"[^"\\]{0,100}")\s*,\s*'
_HEAD = re.compile(rb"^\s*\{\s*" + _VERSION + _ID + _VERSION + rb'"(result|error|method)"\s*:')
"""Of a message that is too long: whose it is, and whether it answers or asks."""
_CANCELLED = "notifications/cancelled"

_Pending = tuple["asyncio.Future[dict[str, Any]]", OnProgress | None]


class JsonRpc(ABC):
    """One JSON-RPC session; how its messages travel is for its subclasses."""

    def __init__(self, offer: Offer, notices: Notices, max_message_bytes: int) -> None:
        self._offer = offer
        self._notices = notices
        self._max_message_bytes = max_message_bytes
        self._pending: dict[int | str, _Pending] = {}
        self._asking: dict[int | str, asyncio.Future[Outcome]] = {}
        """What the server asks, by its id."""
        self._last_id = 0
        self._intercept: OnNotifyIntercept | None = None
        self._closed = asyncio.Event()

    # How messages travel.

    @abstractmethod
    def _write(self, line: bytes, key: int | str | None = None) -> None:
        """Send a message soon, of a request with its id."""

    @abstractmethod
    async def _until_writable(self) -> None:
        """Wait until a request can be sent."""

    @abstractmethod
    def _backlog_bytes(self) -> int:
        """How much the server has not taken yet."""

    # What the SDK's session needs.

    async def run(
        self,
        on_request: OnRequest,  # noqa: ARG002 - the offer answers what a server asks
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
        self,
        name: str,
        arguments_json: bytes,
        meta: Mapping[str, Any],
        on_progress: OnProgress | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call a tool and return the result as it came. `arguments_json` is one line, a JSON object.

        `more` are params beside these. Raises MCPError. Cancelling the task cancels the request.
        """
        key = self._next_id()
        # The arguments go as they came: no number loses digits, nothing is built twice.
        line = (
            b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%b,"arguments":%b,"_meta":%b%b}}\n'
            % (
                key,
                orjson.dumps(name),
                arguments_json,
                orjson.dumps({**meta, "progressToken": key}),
                b"," + orjson.dumps(more)[1:-1] if more else b"",
            )
        )
        return await self._ask(key, line, on_progress, cancellable=True)

    async def _ask(
        self, key: int | str, line: bytes, on_progress: OnProgress | None, *, cancellable: bool
    ) -> dict[str, Any]:
        await self._until_writable()
        if self._closed.is_set():
            raise MCPError(CONNECTION_CLOSED, "the connection is closed")
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._pending[key] = (future, on_progress)
        self._write(line, key)
        try:
            return await future
        except asyncio.CancelledError:
            if cancellable and key in self._pending:
                self._send({"jsonrpc": "2.0", "method": _CANCELLED, "params": {"requestId": key}})
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
        if self._backlog_bytes() < MAX_BACKLOG_BYTES:
            self._write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))

    def close(self) -> None:
        """Fail what waits for an answer; nothing can be asked any more."""
        self._closed.set()
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(MCPError(CONNECTION_CLOSED, "the connection is closed"))
        self._pending.clear()

    def _gone(self) -> None:
        self.close()
        self._notices.on_gone()

    # What comes in.

    def _take(self, text: bytes) -> bool:
        """Take a message; False for what is none."""
        try:
            message = orjson.loads(text)
        except orjson.JSONDecodeError:
            message = _lenient(text)
        if type(message) is dict:
            self._dispatch(message)
        elif type(message) is list:  # a batch, as revision 2025-03-26 had it
            for each in message:
                if type(each) is dict:
                    self._dispatch(each)
        else:
            return False
        return True

    def _dispatch(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method is None:
            self._answer(message)
        elif not isinstance(method, str):
            return
        elif "id" in message:
            self._soon(self._asked, message["id"], method, message.get("params"))
        elif method == "notifications/progress":
            self._progress(message.get("params"))
        else:
            params = message.get("params")
            params = params if isinstance(params, dict) else None
            run_notify_intercept(self._intercept, method, params)
            self._notices.take(method, params)
            if params and method == _CANCELLED:
                self._soon(self._taken_back, params.get("requestId"))

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

    def _soon(self, take: Callable[..., None], *what: Any) -> None:
        # After the calls whose results came before it have ended: it does not belong to them.
        asyncio.get_running_loop().call_soon(take, *what)

    def _asked(self, key: Any, method: str, params: Any) -> None:
        if type(key) is not int and not isinstance(key, str):
            return  # nothing that could be answered
        if key in self._asking:
            self._refuse(key, RefusedError(INVALID_REQUEST, "this id is in use"))
            return
        try:
            # On pipes nothing says in which call the server asks: a `progressToken` here is one of its own.
            outcome = self._offer.ask(method, params, None)
        except RefusedError as refused:
            self._refuse(key, refused)
            return
        if outcome.done():
            self._send({"jsonrpc": "2.0", "id": key, "result": outcome.result()})
            return
        self._asking[key] = outcome
        outcome.add_done_callback(partial(self._reply, key))

    def _reply(self, key: int | str, outcome: "asyncio.Future[Outcome]") -> None:
        if self._asking.pop(key, None) is None:
            return
        error = outcome.exception()
        if isinstance(error, RefusedError):
            self._refuse(key, error)
            return
        # Whatever the server has not read yet: somebody was asked for this, and it waits for it.
        message = {"jsonrpc": "2.0", "id": key, "result": outcome.result()}
        self._write(orjson.dumps(message, option=orjson.OPT_APPEND_NEWLINE))

    def _refuse(self, key: int | str, refused: RefusedError) -> None:
        error = {"code": refused.code, "message": refused.message}
        self._send({"jsonrpc": "2.0", "id": key, "error": error})

    def _taken_back(self, key: Any) -> None:
        outcome = self._asking.pop(key, None) if type(key) is int or isinstance(key, str) else None
        if outcome is not None:
            outcome.cancel()

    def _progress(self, params: Any) -> None:
        if not isinstance(params, dict):
            return
        found = self._pending.get(_key(params.get("progressToken")))
        done, message = _number(params.get("progress")), params.get("message")
        if found is None or found[1] is None or done is None:
            return
        found[1](Progress(done, _number(params.get("total")), message if isinstance(message, str) else ""))

    def _oversize(self, head: bytes) -> None:
        match = _HEAD.match(head)
        if match is None:
            return
        key = orjson.loads(match.group(1))
        if match.group(2) == b"method":
            text = f"the request is longer than {self._max_message_bytes} bytes"
            self._refuse(key, RefusedError(INVALID_REQUEST, text))
            return
        text = f"the answer is longer than {self._max_message_bytes} bytes"
        self._fail(key, MCPError(ANSWER_TOO_LARGE, text))

    def _fail(self, key: int | str, error: MCPError) -> None:
        """Fail a request that waits for its answer."""
        found = self._pending.pop(_key(key), None)
        if found is not None and not found[0].done():
            found[0].set_exception(error)


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
