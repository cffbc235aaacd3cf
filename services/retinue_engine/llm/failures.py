"""What a provider's failure means: the one table from statuses and error codes to LlmErrors."""

import json
import math
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from retinue.errors import (
    LlmContextExceededError,
    LlmError,
    LlmInvalidRequestError,
    LlmInvalidResponseError,
    LlmRateLimitedError,
    LlmTimeoutError,
    LlmUnauthenticatedError,
    LlmUnavailableError,
)
from retinue_engine.llm.model import Endpoint
from retinue_kit.secrets import hide_values

MAX_EXCERPT_CHARS = 300
"""The most of a provider's own message that goes into an error."""

_MAX_RETRY_AFTER_S = 24 * 3600.0

_CONTEXT_CODES = {"context_length_exceeded", "context_window_exceeded", "exceed_context_size_error"}
_CONTEXT_TEXTS = (
    # OpenAI and vLLM; vLLM since 0.9; llama.cpp; Anthropic; LM Studio. Lower case.
    "maximum context length",
    "context_length_exceeded",
    "exceeds the available context size",
    "prompt is too long",
    "context length exceeded",
    "longer than the model's context length",
)
_CODES = {
    # Codes and types that stand in an error object without a status, in the words of OpenAI and its like.
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "tokens": 429,
    "requests": 429,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "not_found_error": 404,
    "model_not_found": 404,
    "overloaded_error": 503,
    "server_error": 500,
    "api_error": 500,
    "internal_error": 500,
}


def error_from_status(
    endpoint: Endpoint, status: int, error: Any, headers: Mapping[str, str] | None = None
) -> LlmError:
    """The error for a status that is not success.

    `error` is the answer's body or the error object in it: text or parsed JSON. `headers` is looked up by
    lower-case names.
    """
    facts: dict[str, Any] = {"model": endpoint.model, "status": status}
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        facts["retry_after_s"] = _retry_after_s((headers or {}).get("retry-after"))
    cls, what = _meaning(status, error)
    said = said_by(endpoint, error)
    return cls(f"model {endpoint.model!r}: {what} (status {status}){said}", **facts)


def _meaning(status: int, error: Any) -> tuple[type[LlmError], str]:
    """The class, and what happened with what to do about it."""
    meaning: tuple[type[LlmError], str]
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        meaning = LlmUnauthenticatedError, "the provider refused the key; check api_key of this llm"
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        meaning = LlmRateLimitedError, "the provider limits the rate; try again later or raise the quota"
    elif _is_context(status, error):
        meaning = LlmContextExceededError, "the conversation is longer than the model's context; shorten it"
    elif status == HTTPStatus.REQUEST_TIMEOUT or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        meaning = LlmUnavailableError, "the server failed; try again"
    elif status == HTTPStatus.NOT_FOUND:
        meaning = LlmInvalidRequestError, "the server does not know the model; check model and base_url"
    elif status < HTTPStatus.BAD_REQUEST:
        meaning = LlmInvalidRequestError, "the server sent no answer; check base_url"
    else:
        meaning = LlmInvalidRequestError, "the provider refused the request; check the llm's settings"
    return meaning


def error_in_answer(endpoint: Endpoint, error: Any) -> LlmError:
    """The error for an error object that came under a status of success, in the stream or alone."""
    return error_from_status(endpoint, _status_in(error) or 500, error)


def timed_out(endpoint: Endpoint) -> LlmTimeoutError:
    """The error for an answer that was not whole in time."""
    return LlmTimeoutError(
        f"model {endpoint.model!r} did not answer within {endpoint.timeout_s:g} s; "
        "raise timeout of this llm or ask for less",
        model=endpoint.model,
        timeout_s=f"{endpoint.timeout_s:g}",
    )


def unreachable(endpoint: Endpoint, why: object) -> LlmUnavailableError:
    """The error for a server that cannot be reached."""
    return LlmUnavailableError(
        f"the server of model {endpoint.model!r} cannot be reached; check base_url"
        f"{said_by(endpoint, str(why))}",
        model=endpoint.model,
    )


def not_in_protocol(endpoint: Endpoint, why: object) -> LlmInvalidResponseError:
    """The error for an answer that is not in the protocol."""
    return LlmInvalidResponseError(
        f"the server of model {endpoint.model!r} answered outside the protocol; "
        f"check base_url{said_by(endpoint, str(why))}",
        model=endpoint.model,
    )


def not_sendable(endpoint: Endpoint, why: object) -> LlmInvalidRequestError:
    """The error for a request that cannot be put on the wire."""
    return LlmInvalidRequestError(
        f"the request to model {endpoint.model!r} cannot be sent; check base_url, api_key and headers of "
        f"this llm{said_by(endpoint, str(why))}",
        model=endpoint.model,
    )


def said_by(endpoint: Endpoint, error: Any) -> str:
    """What the provider said, as the end of a sentence: bounded, on one line, without our secrets."""
    message = _message(error)
    # Some providers repeat the key that they refuse. It is cut out before the bound could halve it.
    given = filter(None, (endpoint.api_key, *endpoint.headers.values(), *endpoint.secrets))
    message = hide_values(message, given)
    message = " ".join(message.split())
    if len(message) > MAX_EXCERPT_CHARS:
        message = message[:MAX_EXCERPT_CHARS] + "…"
    return f": {message}" if message else ""


def _message(error: Any) -> str:
    if isinstance(error, str):
        try:
            error = json.loads(error)
        except (ValueError, RecursionError):
            return str(error)
    if isinstance(error, dict):
        inner = error.get("error", error.get("message", error.get("detail")))
        return _message(inner) if isinstance(inner, dict) else str(inner or "")
    return "" if error is None else str(error)


def _error_object(error: Any) -> dict[str, Any]:
    if isinstance(error, str):
        try:
            error = json.loads(error)
        except (ValueError, RecursionError):
            return {}
    if isinstance(error, dict) and isinstance(error.get("error"), dict):
        error = error["error"]
    return error if isinstance(error, dict) else {}


def _is_context(status: int, error: Any) -> bool:
    if status not in {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE}:
        return False
    named = _error_object(error)
    if named.get("code") in _CONTEXT_CODES or named.get("type") in _CONTEXT_CODES:
        return True
    message = _message(error).lower()
    return any(text in message for text in _CONTEXT_TEXTS)


def _status_in(error: Any) -> int | None:
    named = _error_object(error)
    for key in ("status", "status_code", "code", "type"):
        value = named.get(key)
        if isinstance(value, str):
            value = int(value) if value.isdecimal() else _CODES.get(value.lower())
        if isinstance(value, int) and 400 <= value < 600:  # noqa: PLR2004 (HTTP's statuses of failure)
            return value
    return None


def _retry_after_s(value: str | None) -> int | None:
    """Whole seconds, rounded up, from Retry-After in seconds or as a date (RFC 9110, 10.2.3)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    if not math.isfinite(seconds):
        return None
    return math.ceil(min(max(seconds, 0.0), _MAX_RETRY_AFTER_S))
