"""A provider with a protocol of its own, by litellm: the same events, finish reasons, usage and errors."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from retinue import errors
from retinue_engine.llm.litellm_transport import LitellmTransport, open_litellm
from retinue_engine.llm.model import ChatRequest, Endpoint, Generation, TokenUsage, ToolRequest

STARTED = {
    "type": "message_start",
    "message": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude-x",
        "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 1},
    },
}
TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Grüße"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " 🎉"}},
    {"type": "content_block_stop", "index": 0},
]

JSON_TEXT = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": '{"a":'}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " 1}"}},
    {"type": "content_block_stop", "index": 0},
]
THINKING = [
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "Hm,"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": " so."}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}},
    {"type": "content_block_stop", "index": 0},
]


def tool(index: int, name: str, *pieces: str) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": f"id-{name}", "name": name, "input": {}}
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *(
            {
                "type": "content_block_delta",
                "index": index,
                "delta": {"type": "input_json_delta", "partial_json": piece},
            }
            for piece in pieces
        ),
        {"type": "content_block_stop", "index": index},
    ]


def ended(reason: str) -> list[dict[str, Any]]:
    delta = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 22}}
    return [delta, {"type": "message_stop"}]


class Provider:
    """Serves Anthropic's protocol: the events, or a failure."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.failure: tuple[int, dict[str, Any]] | None = None
        self.base_url = ""
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        if self.failure is not None:
            status, error = self.failure
            return web.json_response(
                {"type": "error", "error": error}, status=status, headers={"retry-after": "7"}
            )
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            await response.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
        return response


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    served = Provider()
    app = web.Application()
    app.router.add_post("/v1/messages", served.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    await runner.cleanup()


@pytest.fixture
async def transport() -> AsyncIterator[LitellmTransport]:
    async with open_litellm() as opened:
        yield opened


def endpoint_of(provider: Provider) -> Endpoint:
    return Endpoint("anthropic/claude-sonnet-4-5", provider.base_url, "sk-secret", {}, 30)


async def ask(
    transport: LitellmTransport, provider: Provider, generation: Generation | None = None
) -> tuple[Any, str]:
    shown: list[str] = []
    request = ChatRequest([{"role": "user", "content": "hi"}], [], generation or Generation())
    return await transport.complete(endpoint_of(provider), request, shown.append), "".join(shown)


async def test_text_usage_and_finish_reason(transport: LitellmTransport, provider: Provider) -> None:
    provider.events = [STARTED, *TEXT, *ended("end_turn")]
    completion, shown = await ask(transport, provider)
    assert completion.text == shown == "Grüße 🎉"
    assert completion.finish_reason == "stop"
    assert completion.usage == TokenUsage(15, 22, cached_input_tokens=5)


async def test_thinking_is_reasoning(transport: LitellmTransport, provider: Provider) -> None:
    provider.events = [STARTED, *THINKING, *TEXT, *ended("end_turn")]
    shown: list[str] = []
    request = ChatRequest([{"role": "user", "content": "hi"}], [])
    completion = await transport.complete(
        endpoint_of(provider), request, shown.append, lambda text: shown.append(f"({text})")
    )
    assert (completion.reasoning, completion.text) == ("Hm, so.", "Grüße 🎉")
    assert "".join(shown) == "(Hm,)( so.)Grüße 🎉"


async def test_an_output_schema_is_asked_for_in_the_provider_s_own_way(
    transport: LitellmTransport, provider: Provider
) -> None:
    provider.events = [STARTED, *JSON_TEXT, *ended("end_turn")]
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    request = ChatRequest([{"role": "user", "content": "hi"}], [], output_schema=schema)
    completion = await transport.complete(endpoint_of(provider), request, lambda _: None)
    assert json.loads(completion.text) == {"a": 1}
    assert '"required": ["a"]' in json.dumps(provider.asked[0])
    assert "response_format" not in provider.asked[0]


async def test_parallel_tool_calls(transport: LitellmTransport, provider: Provider) -> None:
    calls = [*tool(1, "add", '{"a":', "1}"), *tool(2, "now", "{}")]
    provider.events = [STARTED, *TEXT, *calls, *ended("tool_use")]
    completion, _ = await ask(transport, provider)
    assert completion.finish_reason == "tool_calls"
    assert completion.tool_calls == (
        ToolRequest("id-add", "add", '{"a":1}'),
        ToolRequest("id-now", "now", "{}"),
    )


async def test_an_answer_that_ends_in_the_middle_is_not_taken_for_whole(
    transport: LitellmTransport, provider: Provider
) -> None:
    # litellm makes up the finish reason `stop` here.
    provider.events = [STARTED, *TEXT]
    with pytest.raises(errors.LlmUnavailableError):
        await ask(transport, provider)


async def test_an_error_in_the_stream(transport: LitellmTransport, provider: Provider) -> None:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "over"}}
    provider.events = [STARTED, *TEXT, error]
    with pytest.raises(errors.LlmUnavailableError):
        await ask(transport, provider)


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, {"type": "authentication_error", "message": "bad sk-secret"}, errors.LlmUnauthenticatedError),
        (429, {"type": "rate_limit_error", "message": "slow"}, errors.LlmRateLimitedError),
        (
            400,
            {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"},
            errors.LlmContextExceededError,
        ),
        (400, {"type": "invalid_request_error", "message": "no"}, errors.LlmInvalidRequestError),
        (529, {"type": "overloaded_error", "message": "over"}, errors.LlmUnavailableError),
    ],
)
async def test_failures_go_by_the_provider_s_status(
    transport: LitellmTransport,
    provider: Provider,
    status: int,
    error: dict[str, Any],
    expected: type[errors.LlmError],
) -> None:
    provider.failure = status, error
    with pytest.raises(expected) as caught:
        await ask(transport, provider)
    assert caught.value.facts["status"] == str(status)
    assert caught.value.facts.get("retry_after_s") == ("7" if status == 429 else None)
    assert error["message"].replace("sk-secret", "***") in caught.value.message
    assert len(provider.asked) == 1


async def test_a_seed_is_left_out_where_the_provider_has_none(
    transport: LitellmTransport, provider: Provider
) -> None:
    provider.events = [STARTED, *TEXT, *ended("end_turn")]
    await ask(transport, provider, Generation(seed=1, temperature=0.5))
    assert "seed" not in provider.asked[0]
    assert provider.asked[0]["temperature"] == 0.5


async def test_a_model_that_litellm_does_not_know_is_an_invalid_request(transport: LitellmTransport) -> None:
    endpoint = Endpoint("no-such-model", None, "k", {}, 30)
    request = ChatRequest([{"role": "user", "content": "hi"}], [])
    with pytest.raises(errors.LlmInvalidRequestError, match="no-such-model"):
        await transport.complete(endpoint, request, lambda _: None)
