"""Asks one server over both transports and holds their outcomes against each other."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import pytest

from retinue.errors import LlmError
from retinue_cli.scripted_model import open_scripted_model, parse_script
from retinue_engine.llm.model import ChatRequest, Completion, Endpoint, Generation
from retinue_engine.llm.routing import Models, open_models

TRANSPORTS: tuple[Literal["direct", "litellm"], ...] = ("direct", "litellm")
NO_SETTINGS = Generation()
_MADE_UP_ID = re.compile(r"call_[0-9a-f]{24}")


@dataclass(frozen=True)
class Outcome:
    """What came of one call."""

    shown: str
    thought: str
    completion: Completion | None = None
    error: type[LlmError] | None = None
    reason: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    message: str = ""


class Ask(Protocol):
    """Asks over both transports; the outcome is the same, or the test fails."""

    async def __call__(
        self,
        base_url: str,
        said: str = "hi",
        *,
        messages: Sequence[dict[str, Any]] = (),
        tools: Sequence[dict[str, Any]] = (),
        generation: Generation = ...,
        output_schema: dict[str, Any] | None = None,
        api_key: str | None = "sk-of-the-test",
        headers: dict[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Outcome: ...


@pytest.fixture
async def models() -> AsyncIterator[Models]:
    async with open_models() as opened:
        yield opened


@pytest.fixture
def ask_both(models: Models) -> Ask:
    async def outcome(
        transport: Literal["direct", "litellm"], endpoint: Endpoint, request: ChatRequest
    ) -> Outcome:
        shown: list[str] = []
        thought: list[str] = []
        try:
            completion = await models.complete(
                transport, endpoint, request, shown.append, thought.append, protocol="openai_chat"
            )
        except LlmError as error:
            facts = tuple(sorted(error.facts.items()))
            return Outcome(
                "".join(shown), "".join(thought), None, type(error), error.reason, facts, error.message
            )
        assert completion.text == "".join(shown)
        assert completion.reasoning == "".join(thought)
        calls = tuple(
            replace(call, call_id="made up") if _MADE_UP_ID.fullmatch(call.call_id) else call
            for call in completion.tool_calls
        )
        return Outcome("".join(shown), "".join(thought), replace(completion, tool_calls=calls))

    async def ask(
        base_url: str,
        said: str = "hi",
        *,
        messages: Sequence[dict[str, Any]] = (),
        tools: Sequence[dict[str, Any]] = (),
        generation: Generation = NO_SETTINGS,
        output_schema: dict[str, Any] | None = None,
        api_key: str | None = "sk-of-the-test",
        headers: dict[str, str] | None = None,
        timeout_s: float = 30,
    ) -> Outcome:
        endpoint = Endpoint("m", base_url, api_key, headers or {}, timeout_s)
        request = ChatRequest(
            messages or [{"role": "user", "content": said}], tools, generation, output_schema
        )
        direct, litellm = [await outcome(each, endpoint, request) for each in TRANSPORTS]
        # What lies under an unreachable server is told in the words of the library that tried.
        assert replace(direct, message="") == replace(litellm, message="")
        return direct

    return ask


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Serves a script; gives its base URL."""
    async with AsyncExitStack() as stack:

        async def serve(source: str) -> str:
            return await stack.enter_async_context(open_scripted_model(parse_script(source)))

        yield serve


class RawServer:
    """Sends given bytes to whoever asks, with no care for HTTP."""

    def __init__(self) -> None:
        self.pieces: Sequence[bytes] = ()
        self.holds = False
        """Whether it keeps the connection open after the last piece."""
        self.asked: list[bytes] = []
        self.arrived = asyncio.Event()
        """Set when a whole request has come."""
        self.gone = asyncio.Event()
        """Set when a client closed its side."""
        self.base_url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            self.asked.append(head + await reader.readexactly(int(found[1]) if found else 0))
            self.arrived.set()
            for piece in self.pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if self.holds:
                await reader.read()
                self.gone.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()


@pytest.fixture
async def raw() -> AsyncIterator[RawServer]:
    server = RawServer()
    listener = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    server.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()
