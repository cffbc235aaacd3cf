"""What servers ask in the middle of tool calls: how it waits for its answer, and what comes of it."""

import asyncio
import secrets
import time
from functools import partial
from typing import Any

import orjson

from retinue.errors import InvalidArgumentError, McpServerRequestNotFoundError, Violation
from retinue_mcp_host.model import (
    Answer,
    AnswerFailure,
    Elicitation,
    ElicitationAnswer,
    OnRequest,
    Question,
    Sampling,
    SamplingAnswer,
    ServerRequest,
    ServerRequestClosed,
    ToolCall,
)

ELICITATION_S = 600.0
"""How long a person has for an answer; then it is declined."""
SAMPLING_S = 600.0
"""How long a model has, with its retries; then the server is refused."""
MAX_WAITING = 8
"""Requests of one call that wait for answers at a time."""
MAX_REQUESTS = 100
"""Of one call, all together: each may stop the call's clock."""

REJECTED = -1
"""What MCP gives for sampling that a person rejected (specification, client/sampling)."""
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602

Outcome = dict[str, Any]
"""The result of a request as the server gets it."""


class RefusedError(Exception):
    """The server gets an error for what it asked; the call goes on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ServerRequests:
    """All that waits for an answer in this host, by its id."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Question, asyncio.Future[Outcome]]] = {}

    def add(self, request_id: str, question: Question, outcome: "asyncio.Future[Outcome]") -> None:
        """Let a request be answered."""
        self._waiting[request_id] = (question, outcome)

    def forget(self, request_id: str) -> bool:
        """Let it be answered no more; False where it has been."""
        return self._waiting.pop(request_id, None) is not None

    def answer(self, request_id: str, answer: Answer) -> None:
        """Answer a request. Raises McpServerRequestNotFoundError, InvalidArgumentError."""
        question, outcome = self._waiting.get(request_id, (None, None))
        if question is None or outcome is None or outcome.done():
            raise McpServerRequestNotFoundError(
                "no MCP server waits for this answer: it has been given, its time is over, or its call is",
                request_id=request_id,
            )
        if isinstance(answer, AnswerFailure):
            outcome.set_exception(RefusedError(REJECTED, answer.message or "there is no answer"))
        else:
            outcome.set_result(_outcome(question, answer))
        del self._waiting[request_id]


class Caller:
    """Who makes one call: what they can be asked, and what waits for their answer."""

    __slots__ = ("_asked", "_clock", "_left_s", "_requests", "_tell", "_waiting", "call")

    def __init__(self, call: ToolCall, requests: ServerRequests, tell: OnRequest) -> None:
        self.call = call
        self._requests = requests
        self._tell = tell
        self._clock: asyncio.Timeout | None = None
        self._left_s = 0.0
        self._asked = 0
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}

    def begin(self, clock: asyncio.Timeout) -> None:
        """The server has the call from now on; the clock stands still while it waits for an answer."""
        self._clock = clock

    def end(self) -> None:
        """The call has ended: nothing that was asked in it is answered any more."""
        self._clock = None
        while self._waiting:
            request_id, outcome = self._waiting.popitem()
            self._requests.forget(request_id)
            if not outcome.done():
                outcome.set_exception(RefusedError(INVALID_REQUEST, "the tool call has ended"))

    def accepts(self, question: Question) -> bool:
        """Whether they can be asked this."""
        if isinstance(question, Elicitation):
            return self.call.accepts_elicitation
        return self.call.accepts_sampling

    def ask(self, question: Question, size_bytes: int) -> "asyncio.Future[Outcome]":
        """Ask; the future has the outcome. Cancelling it takes the question back. Raises RefusedError."""
        clock = self._clock
        if clock is None or clock.expired():
            raise RefusedError(INVALID_REQUEST, "the tool call has ended")
        if not self.accepts(question):
            return declined(question, "the caller of this tool cannot be asked")
        if len(self._waiting) >= MAX_WAITING or self._asked >= MAX_REQUESTS:
            raise RefusedError(
                INVALID_REQUEST,
                f"one tool call may ask {MAX_REQUESTS} times, and {MAX_WAITING} of these may wait at a time",
            )
        self._asked += 1
        limit_s = ELICITATION_S if isinstance(question, Elicitation) else SAMPLING_S
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        deadline = loop.call_later(limit_s, _expire, question, outcome)
        request_id = secrets.token_hex(16)
        if not self._waiting:
            self._left_s = (clock.when() or 0.0) - loop.time()
            clock.reschedule(None)
        self._waiting[request_id] = outcome
        self._requests.add(request_id, question, outcome)
        outcome.add_done_callback(partial(self._done, request_id, deadline))
        expire_us = int((time.time() + limit_s) * 1e6)
        self._tell(ServerRequest(request_id, expire_us, question, size_bytes))
        return outcome

    def _done(
        self, request_id: str, deadline: asyncio.TimerHandle, outcome: "asyncio.Future[Outcome]"
    ) -> None:
        deadline.cancel()
        if not outcome.cancelled():
            outcome.exception()  # seen: who waited for it may have gone
        if self._waiting.pop(request_id, None) is None or self._clock is None:
            return
        if self._requests.forget(request_id):
            self._tell(ServerRequestClosed(request_id))
        if not self._waiting:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._left_s)


def declined(question: Question, why: str) -> "asyncio.Future[Outcome]":
    """A request that nobody is asked. Raises RefusedError where MCP has no word for it but an error."""
    if isinstance(question, Sampling):
        raise RefusedError(REJECTED, why)
    outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    outcome.set_result({"action": "decline"})
    return outcome


def _expire(question: Question, outcome: "asyncio.Future[Outcome]") -> None:
    if outcome.done():
        return
    if isinstance(question, Sampling):
        outcome.set_exception(RefusedError(REJECTED, f"nobody answered within {SAMPLING_S:g} s"))
    else:
        outcome.set_result({"action": "decline"})


def _outcome(question: Question, answer: ElicitationAnswer | SamplingAnswer) -> Outcome:
    """The answer as MCP has it. Raises InvalidArgumentError."""
    if isinstance(question, Elicitation) and isinstance(answer, ElicitationAnswer):
        if answer.action != "accept":
            return {"action": answer.action}
        content = _object("elicitation.content_json", answer.content_json or "{}")
        return {"action": "accept", "content": content}
    if isinstance(question, Sampling) and isinstance(answer, SamplingAnswer):
        field = "sampling.result_json"
        result = _object(field, answer.result_json)
        if not (
            isinstance(result.get("role"), str)
            and isinstance(result.get("content"), dict | list)
            and isinstance(result.get("model"), str)
        ):
            raise _invalid(field, "must have role, content and model, as MCP's CreateMessageResult")
        return result
    asked = "an elicitation" if isinstance(question, Elicitation) else "sampling"
    raise _invalid("answer", f"must be one to {asked}")


def _object(field: str, text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise _invalid(field, "must be a JSON object")
    return value


def _invalid(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {what}", violations=[Violation(field, what)])
