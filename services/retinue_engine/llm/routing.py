"""Which transport a call takes, and the two transports as one object with one lifetime."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Literal

from retinue.errors import ComponentInvalidError, Violation
from retinue_engine.llm.direct import DirectTransport, open_direct
from retinue_engine.llm.failures import timed_out, unreachable
from retinue_engine.llm.litellm_transport import LitellmTransport, open_litellm
from retinue_engine.llm.model import (
    ChatRequest,
    Completion,
    Endpoint,
    OnReasoning,
    OnText,
    ignore_reasoning,
)
from retinue_kit.allowed_hosts import Reach

Transport = Literal["direct", "litellm"]
Protocol = Literal["openai_chat"]
StructuredOutput = Literal["auto", "native", "instruction"]

_LITELLM_PROVIDERS: dict[Protocol, str] = {"openai_chat": "openai"}
"""litellm's name of the provider that speaks a protocol."""

_URL = re.compile(r"https?://\S+")
_AT_HOME = frozenset(
    (
        *("docker_model_runner", "hosted_vllm", "litellm_proxy", "llamafile", "lm_studio", "ollama"),
        *("ollama_chat", "oobabooga", "petals", "triton", "vllm", "xinference"),
    )
)
"""Providers that litellm looks for on this machine, or where this process's environment says."""


def choose_transport(transport: Literal["auto", "direct", "litellm"], protocol: Protocol | None) -> Transport:
    """The transport of a spec: `auto` is direct only where the protocol is declared.

    Raises ComponentInvalidError for `direct` without a declared protocol.
    """
    if transport == "auto":
        return "litellm" if protocol is None else "direct"
    if transport == "direct" and protocol is None:
        what = (
            "transport `direct` needs a declared protocol: set `protocol: openai_chat` or another transport"
        )
        raise ComponentInvalidError(what, violations=[Violation("protocol", what)], kind="llm")
    return transport


class Models:
    """Asks models over the transport that their spec chose."""

    def __init__(self, direct: DirectTransport, litellm: LitellmTransport) -> None:
        self._direct = direct
        self._litellm = litellm

    async def warm(self) -> None:
        """Import litellm now, off the event loop, so that no call waits for it."""
        await self._litellm.warm()

    async def complete(
        self,
        transport: Transport,
        endpoint: Endpoint,
        request: ChatRequest,
        on_text: OnText,
        on_reasoning: OnReasoning = ignore_reasoning,
        *,
        protocol: Protocol | None = None,
    ) -> Completion:
        """Ask a model; see ChatModel. `protocol` is what the spec declares."""
        if transport == "direct":
            return await self._direct.complete(endpoint, request, on_text, on_reasoning)
        provider = _litellm_provider(protocol)
        if endpoint.reach is not None:
            # Some providers' credentials litellm finds by itself, and would send wherever the address leads.
            secret = endpoint.reach.secret or provider is None
            await _check_reach(endpoint, replace(endpoint.reach, secret=secret))
        return await self._litellm.complete(endpoint, request, on_text, on_reasoning, provider=provider)

    async def native_output(
        self,
        transport: Transport,
        model: str,
        *,
        protocol: Protocol | None = None,
        mode: StructuredOutput = "auto",
    ) -> bool:
        """Whether an output schema goes to the provider; else it goes to the model, as an instruction."""
        if mode != "auto":
            return mode == "native"
        if transport == "direct":
            return True
        return await self._litellm.knows_output_schemas(model, provider=_litellm_provider(protocol))


def _litellm_provider(protocol: Protocol | None) -> str | None:
    # litellm finds the provider by the model's name; a declared protocol says it, whatever the name.
    return _LITELLM_PROVIDERS[protocol] if protocol else None


async def _check_reach(endpoint: Endpoint, reach: Reach) -> None:
    """Check where litellm would connect to; it does so by itself, and so by name and not pinned.

    Raises ComponentNotAllowedError, LlmTimeoutError, LlmUnavailableError.
    """
    try:
        async with asyncio.timeout(endpoint.timeout_s):
            if in_name := _URL.search(endpoint.model):
                await reach.target(in_name.group())
            if endpoint.base_url:
                await reach.target(endpoint.base_url)
                return
    except TimeoutError:
        raise timed_out(endpoint) from None
    except OSError as error:
        raise unreachable(endpoint, error) from error
    if endpoint.model.partition("/")[0] in _AT_HOME:
        raise reach.refusal_without_address()
    reach.check_anywhere()


@asynccontextmanager
async def open_models() -> AsyncIterator[Models]:
    """Open both transports; leaving closes their connections. litellm is imported by the first use."""
    async with open_direct() as direct, open_litellm() as litellm:
        yield Models(direct, litellm)
