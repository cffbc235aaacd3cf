"""The litellm transport: every provider that the litellm library knows.

litellm is imported on first use, in a thread: the import takes seconds.
"""

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from retinue.errors import LlmUnavailableError
from retinue_engine.llm.answer import MAX_ANSWER_CHARS, Answer
from retinue_engine.llm.failures import not_sendable, timed_out
from retinue_engine.llm.litellm_failures import error_from_litellm
from retinue_engine.llm.litellm_import import import_litellm
from retinue_engine.llm.litellm_output import is_asked_over_network, takes_output_schema
from retinue_engine.llm.model import (
    ChatRequest,
    Completion,
    Endpoint,
    OnReasoning,
    OnText,
    ignore_reasoning,
)
from retinue_engine.llm.request import request_fields
from retinue_kit.garbage import keep_all

_NO_KEY = "no-key"
"""Sent where a server of the user's own needs no key, and for an llm that came by API without one: given
none, litellm would send the key that it finds in this process's environment."""

_SAYS = ("content", "reasoning_content", "tool_calls")
"""The keys of a delta that say something."""

_MAX_KNOWN_MODELS = 1024


@asynccontextmanager
async def open_litellm() -> AsyncIterator["LitellmTransport"]:
    """Open the transport, without importing litellm; leaving closes litellm's connections."""
    transport = LitellmTransport()
    try:
        yield transport
    finally:
        await transport.aclose()


class LitellmTransport:
    """A ChatModel over litellm."""

    def __init__(self) -> None:
        self._litellm: Any = None
        self._importing = asyncio.Lock()
        self._knows_output_schemas: dict[tuple[str, str | None], bool] = {}

    async def warm(self) -> Any:
        """Import litellm, once, however many ask, without stopping the event loop."""
        if self._litellm is None:
            async with self._importing:
                if self._litellm is None:
                    self._litellm = await asyncio.to_thread(import_litellm)
                    keep_all()
        return self._litellm

    async def aclose(self) -> None:
        """Close the connections that litellm keeps; another call opens new ones."""
        if self._litellm is not None:
            await self._litellm.close_litellm_async_clients()
            # Closed clients would stay in the cache, and one in the module, and open sessions again that
            # nothing closes.
            self._litellm.in_memory_llm_clients_cache.flush_cache()
            vars(self._litellm).pop("module_level_aclient", None)

    async def knows_output_schemas(self, model: str, *, provider: str | None = None) -> bool:
        """Whether a model's provider takes an output schema; False where litellm does not know it."""
        if is_asked_over_network(model, provider):
            return False
        known = self._knows_output_schemas.get((model, provider))
        if known is None:
            litellm = await self.warm()
            known = await asyncio.to_thread(takes_output_schema, litellm, model, provider)
            if len(self._knows_output_schemas) >= _MAX_KNOWN_MODELS:
                self._knows_output_schemas.clear()
            self._knows_output_schemas[model, provider] = known
        return known

    async def complete(
        self,
        endpoint: Endpoint,
        request: ChatRequest,
        on_text: OnText,
        on_reasoning: OnReasoning = ignore_reasoning,
        *,
        provider: str | None = None,
    ) -> Completion:
        """Ask, stream text and reasoning as they come, and return the whole answer; see ChatModel.

        `provider` is litellm's name of the provider, where it does not stand in the model's name.
        """
        litellm = await self.warm()
        answer = Answer(endpoint, on_text, on_reasoning)
        try:
            async with asyncio.timeout(endpoint.timeout_s) as deadline:
                await self._ask(litellm, _arguments(endpoint, request, provider), endpoint, answer)
        except TimeoutError as error:
            if deadline.expired():
                raise timed_out(endpoint) from None
            raise error_from_litellm(endpoint, error, answer) from error
        return answer.completion()

    async def _ask(self, litellm: Any, arguments: dict[str, Any], endpoint: Endpoint, answer: Answer) -> None:
        if "seed" in arguments and "seed" not in (
            litellm.get_supported_openai_params(arguments["model"]) or ()
        ):
            del arguments["seed"]  # it asks for repeatable answers where the provider can
        try:
            stream = await litellm.acompletion(**arguments)
        except Exception as error:
            # litellm raises classes of its own, of openai and of httpx, and now and then plain ones.
            raise error_from_litellm(endpoint, error, None) from error
        async with contextlib.aclosing(_chunks(stream)) as chunks:
            while True:
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    failure = error_from_litellm(endpoint, error, answer)
                    if answer.finished and isinstance(failure, LlmUnavailableError):
                        return  # the connection broke after the whole answer
                    raise failure from error
                answer.add(chunk)
                answer.flush()


def _arguments(endpoint: Endpoint, request: ChatRequest, provider: str | None) -> dict[str, Any]:
    key = endpoint.api_key
    if key and ("\n" in key or "\r" in key):
        raise not_sendable(endpoint, "api_key holds a line break")
    return {
        # litellm changes what it is given for some providers.
        **copy.deepcopy(request_fields(request)),
        "model": f"{provider}/{endpoint.model}" if provider else endpoint.model,
        "api_key": key or (_NO_KEY if endpoint.base_url or endpoint.reach else None),
        "api_base": endpoint.base_url,
        "extra_headers": dict(endpoint.headers) or None,
        "timeout": endpoint.timeout_s,
        "stream": True,
        "stream_options": {"include_usage": True},
        # Retries are the agent loop's, which counts and reports them.
        "num_retries": 0,
        "max_retries": 0,
        # A setting that the provider does not have is an error: nothing that was accepted is ignored.
        "drop_params": False,
    }


async def _chunks(stream: Any) -> AsyncGenerator[dict[str, Any]]:
    """The chunks of litellm's stream in the OpenAI format."""
    source = stream.completion_stream
    if type(source).__module__.startswith("openai"):
        # Before litellm's wrapper: that makes up a finish reason and usage where the server sent none, drops
        # tool calls that it cannot read, and starts tasks of its own that outlive the call.
        try:
            if source.response.headers.get("content-type", "").startswith("application/json"):
                yield await _read_json(source.response)
                return
            async for chunk in source:
                # Without pydantic's warnings about what is not of the declared type: Answer judges that.
                yield chunk.model_dump(exclude_unset=True, warnings=False)
        finally:
            await source.close()
        return
    try:
        async for chunk in stream:
            # The wrapper's own finish reason and usage may be made up; the provider's are read below.
            choices = [_choice(each) for each in chunk.choices]
            if any(each["delta"].get(key) for each in choices for key in _SAYS):
                yield {"model": chunk.model, "choices": choices}
        if not stream.chunks:
            return  # nothing came that litellm could read
        reason = stream.received_finish_reason or stream.intermittent_finish_reason
        usage = next((each.usage for each in reversed(stream.chunks) if getattr(each, "usage", None)), None)
        yield {
            "choices": [{"finish_reason": reason}],
            "usage": usage and usage.model_dump(),
        }
    finally:
        await stream.aclose()


async def _read_json(response: Any) -> Any:
    body = bytearray()
    async for read in response.aiter_bytes():
        body += read
        if len(body) > MAX_ANSWER_CHARS:
            raise ValueError(f"more than {MAX_ANSWER_CHARS} bytes")
    return json.loads(body)


def _choice(choice: Any) -> dict[str, Any]:
    return {"index": choice.index, "delta": choice.delta.model_dump(exclude_unset=True)}
