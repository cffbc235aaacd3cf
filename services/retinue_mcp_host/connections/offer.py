"""What the server of one connection may ask, and in which of the calls under way on it."""

import asyncio
from contextvars import ContextVar
from typing import Any
from urllib.parse import unquote

import orjson
import structlog

from retinue_mcp_host.calls.server_requests import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    Caller,
    Outcome,
    RefusedError,
    declined,
)
from retinue_mcp_host.model import Elicitation, Question, Sampling, ServerSpec

log = structlog.get_logger()

ELICIT = "elicitation/create"
SAMPLE = "sampling/createMessage"
ROOTS = "roots/list"
PING = "ping"

_CALLER: ContextVar[Caller | None] = ContextVar("mcp_caller", default=None)


def current_caller() -> Caller | None:
    """Whose call this context belongs to, if any.

    The SDK reads what comes with a request's answer in the context of who sent the request.
    """
    return _CALLER.get()


class Offer:
    """Takes what a server asks, and asks the caller of the call that it belongs to."""

    def __init__(self, spec: ServerSpec, max_request_bytes: int) -> None:
        self._spec = spec
        self._max_request_bytes = max_request_bytes
        self._under_way: dict[Caller, None] = {}
        self._told = False

    @property
    def has_sampling(self) -> bool:
        """Whether the server's component allows it to ask for a model's text."""
        return self._spec.allow_sampling

    @property
    def has_roots(self) -> bool:
        """Whether the server's component names places where it may work."""
        return bool(self._spec.roots)

    def begin(self, caller: Caller, clock: asyncio.Timeout) -> None:
        """Note that a call is under way, made in this context."""
        caller.begin(clock)
        self._under_way[caller] = None
        _CALLER.set(caller)

    def end(self, caller: Caller) -> None:
        """Note that it is not any more."""
        _CALLER.set(None)
        del self._under_way[caller]
        caller.end()

    def ask(self, method: Any, params: Any, related: Caller | None) -> "asyncio.Future[Outcome]":
        """Ask what a server asks; `related` is whose call it came with, where the transport tells.

        Cancelling the future takes it back. The future or the call itself raises RefusedError.
        """
        if method == ELICIT:
            return self._ask(_elicitation(params), related)
        if method == SAMPLE:
            if not self._spec.allow_sampling:
                raise RefusedError(
                    METHOD_NOT_FOUND, f"{SAMPLE} is not offered: allow_sampling is not set for this server"
                )
            return self._ask(_sampling(params), related)
        if method not in (PING, ROOTS):
            raise RefusedError(METHOD_NOT_FOUND, f"{str(method)[:100]} is not offered by this client")
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        outcome.set_result({} if method == PING else {"roots": [_root(uri) for uri in self._spec.roots]})
        return outcome

    def _ask(self, asked: tuple[Question, int], related: Caller | None) -> "asyncio.Future[Outcome]":
        question, size_bytes = asked
        if size_bytes > self._max_request_bytes:
            raise RefusedError(
                INVALID_PARAMS,
                f"the request has {size_bytes} bytes, at most {self._max_request_bytes} are taken",
            )
        if related is None:
            caller = self._only_run(question)
            if caller is None:
                return declined(
                    question, "calls of several runs are under way, and MCP does not say which asks"
                )
            return caller.ask(question, size_bytes)
        if related not in self._under_way:
            raise RefusedError(INVALID_REQUEST, "the tool call has ended")
        return related.ask(question, size_bytes)

    def _only_run(self, question: Question) -> Caller | None:
        """Whom to ask where nothing says whose call it is; None where that could be somebody else.

        A question may only be seen by the run whose call brought it about, so that all calls under way must
        be of one run. Raises RefusedError where there is none.
        """
        callers = self._under_way
        first = next(iter(callers), None)
        if first is None:
            raise RefusedError(INVALID_REQUEST, "no tool call is under way")
        if len(callers) == 1:
            return first
        run_id = first.call.run_id
        if not run_id or any(each.call.run_id != run_id for each in callers):
            self._say_ambiguous()
            return None
        return next((each for each in reversed(callers) if each.accepts(question)), first)

    def _say_ambiguous(self) -> None:
        # Once: a server may go on asking.
        if not self._told:
            self._told = True
            log.warning(
                "a request of a server was declined: calls of several runs are under way on its connection, "
                "and nothing says which of them it belongs to; further ones are not logged",
                server=self._spec.name,
                namespace=self._spec.namespace,
            )


def _root(uri: str) -> Outcome:
    return {"uri": uri, "name": unquote(uri.rstrip("/").rpartition("/")[2]) or uri}


def _elicitation(params: Any) -> tuple[Elicitation, int]:
    """The question and its size. Raises RefusedError."""
    if not isinstance(params, dict):
        raise _malformed(f"{ELICIT} needs params")
    if params.get("mode", "form") != "form":
        raise _malformed("only the form mode of elicitation is offered")
    message, schema = params.get("message"), params.get("requestedSchema")
    if not isinstance(message, str) or not isinstance(schema, dict):
        raise _malformed(f"{ELICIT} needs a message and an object requestedSchema")
    schema_json = _dumps(schema)
    return Elicitation(message, schema_json.decode()), len(_dumps(message)) + len(schema_json)


def _sampling(params: Any) -> tuple[Sampling, int]:
    """The question and its size. Raises RefusedError."""
    if not isinstance(params, dict) or not isinstance(params.get("messages"), list):
        raise _malformed(f"{SAMPLE} needs messages")
    if type(params.get("maxTokens")) is not int:
        raise _malformed(f"{SAMPLE} needs an integer maxTokens")
    if params.get("tools") is not None or params.get("toolChoice") is not None:
        raise _malformed("sampling with tools is not offered")
    params_json = _dumps(params)
    return Sampling(params_json.decode()), len(params_json)


def _dumps(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _malformed(f"the params are no JSON: {error}") from None


def _malformed(how: str) -> RefusedError:
    return RefusedError(INVALID_PARAMS, how)
