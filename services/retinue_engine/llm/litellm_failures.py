"""What litellm raises, and the libraries under it, as LlmErrors.

litellm's own classes are not the measure: for OpenAI's protocol they call a 401 or 404 a bad request. The
provider's answer, which hangs in the chain of causes, says what happened.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from retinue.errors import LlmContextExceededError, LlmError
from retinue_engine.llm.answer import Answer
from retinue_engine.llm.failures import (
    error_from_status,
    error_in_answer,
    not_in_protocol,
    said_by,
    timed_out,
    unreachable,
)
from retinue_engine.llm.model import Endpoint

_MAX_CAUSES = 20


def error_from_litellm(endpoint: Endpoint, error: Exception, answer: Answer | None) -> LlmError:
    """The error for what litellm raised; `answer` is what had come of it, None before there was one."""
    chain = list(_causes(error))
    names = {name for each in chain for name in _names(each)}
    if names & {"openai.APITimeoutError", "httpx.TimeoutException"}:
        return timed_out(endpoint)
    for each in reversed(chain):
        response = getattr(each, "response", None)
        # Those that litellm makes up itself have no headers.
        if response is not None and getattr(response, "headers", None):
            return error_from_status(endpoint, response.status_code, _body(chain, response), response.headers)
    if "aiohttp.client_exceptions.ClientResponseError" in names:
        return not_in_protocol(endpoint, chain[-1])
    if answer is None and names & {"httpx.TransportError", "openai.APIConnectionError"}:
        return unreachable(endpoint, chain[-1])
    if answer is not None and "httpx.TransportError" in names:
        return answer.broke_off()
    return _without_response(endpoint, error, chain, names)


def _without_response(
    endpoint: Endpoint, error: Exception, chain: list[BaseException], names: set[str]
) -> LlmError:
    if "litellm.exceptions.ContextWindowExceededError" in names:
        what = f"model {endpoint.model!r}: the conversation is longer than the model's context; shorten it"
        return LlmContextExceededError(what + said_by(endpoint, str(error)), model=endpoint.model, status=400)
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        return error_from_status(endpoint, status, str(error))
    if "openai.APIError" in names:
        return error_in_answer(endpoint, _body(chain))
    return not_in_protocol(endpoint, f"{type(error).__name__}: {error}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, from the outside in."""
    for _ in range(_MAX_CAUSES):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _names(error: BaseException) -> Iterator[str]:
    for cls in type(error).__mro__:
        yield f"{cls.__module__}.{cls.__qualname__}"


def _body(chain: list[BaseException], response: Any = None) -> Any:
    """What the provider said: the parsed body of the innermost error that kept one, else litellm's words."""
    for each in reversed(chain):
        if (body := getattr(each, "body", None)) is not None:
            return body
    # A streamed response whose body was not read has no text, and says so by an error of httpx.
    with contextlib.suppress(RuntimeError):
        return getattr(response, "text", None) or str(chain[0])
    return str(chain[0])
