"""Both transports give the same for the same scripted answers."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from retinue import errors
from retinue_engine.llm.model import Generation, TokenUsage, ToolRequest

Serve = Callable[[str], Awaitable[str]]
Seen = Callable[[str], Awaitable[list[Any]]]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.fixture
def seen() -> Seen:
    """Gives the requests that a scripted model was sent."""

    async def requests(base_url: str) -> list[Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{base_url}/scripted/requests") as response,
        ):
            data: list[Any] = (await response.json())["data"]
            return data

    return requests


async def test_text_comes_whole_with_usage_and_the_model_that_answered(
    scripted: Serve, ask_both: Any
) -> None:
    base_url = await scripted(
        """
        name: demo
        default:
          text: "Größe: {last_user} 🎉"
          chunk_size: 1
          usage: {input_tokens: 12, output_tokens: 7, cached_input_tokens: 4, reasoning_tokens: 3}
        """
    )
    outcome = await ask_both(base_url, "5 € {turn}")
    completion = outcome.completion
    assert completion.text == "Größe: 5 € {turn} 🎉"
    assert completion.finish_reason == "stop"
    assert completion.usage == TokenUsage(12, 7, 4, 3)
    assert completion.model == "scripted:demo"
    assert completion.tool_calls == ()


async def test_usage_that_the_server_does_not_send_is_unknown(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted("default: {text: hello, no_usage: true}"))
    assert outcome.completion.usage is None


async def test_parallel_tool_calls_keep_their_order_ids_and_broken_arguments(
    scripted: Serve, ask_both: Any
) -> None:
    base_url = await scripted(
        """
        default:
          text: Looking.
          chunk_size: 2
          tool_calls:
            - {name: weather, id: a, arguments: {city: "{last_user}", days: 3}}
            - {name: weather, id: b, arguments: '{"city": '}
            - {name: now, id: c}
        """
    )
    completion = (await ask_both(base_url, "Köln", tools=[WEATHER])).completion
    assert completion.text == "Looking."
    assert completion.finish_reason == "tool_calls"
    first, *others = completion.tool_calls
    assert (first.call_id, first.name) == ("a", "weather")
    assert json.loads(first.arguments_json) == {"city": "Köln", "days": 3}
    assert others == [ToolRequest("b", "weather", '{"city": '), ToolRequest("c", "now", "{}")]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("something_new", "something_new"),
    ],
)
async def test_finish_reasons_come_in_the_words_of_the_protocol(
    scripted: Serve, ask_both: Any, sent: str, meant: str
) -> None:
    outcome = await ask_both(await scripted(f"default: {{text: cut short, finish_reason: {sent}}}"))
    assert outcome.completion.finish_reason == meant


async def test_tool_calls_under_finish_reason_stop_are_tool_calls(scripted: Serve, ask_both: Any) -> None:
    base_url = await scripted("default: {tool_calls: [{name: now, id: a}], finish_reason: stop}")
    assert (await ask_both(base_url)).completion.finish_reason == "tool_calls"


async def test_reasoning_comes_apart_from_text(scripted: Serve, ask_both: Any) -> None:
    base_url = await scripted(
        """
        default:
          reasoning: "Größe? {last_user} 🎉"
          text: Three.
          chunk_size: 1
          tool_calls: [{name: now, id: a}]
        """
    )
    outcome = await ask_both(base_url)
    assert outcome.thought == outcome.completion.reasoning == "Größe? hi 🎉"
    assert outcome.shown == outcome.completion.text == "Three."
    assert [each.name for each in outcome.completion.tool_calls] == ["now"]


async def test_an_answer_without_reasoning_has_none(scripted: Serve, ask_both: Any) -> None:
    assert (await ask_both(await scripted("default: {text: a}"))).completion.reasoning == ""


async def test_reasoning_that_came_before_the_connection_broke_was_shown(
    scripted: Serve, ask_both: Any
) -> None:
    outcome = await ask_both(await scripted("default: {reasoning: abcdef, text: x, chunk_size: 2, cut: 3}"))
    assert outcome.error is errors.LlmUnavailableError
    assert (outcome.thought, outcome.shown) == ("abcd", "")


async def test_an_empty_answer_is_an_answer(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted('default: {text: ""}'))
    assert (outcome.completion.text, outcome.completion.finish_reason) == ("", "stop")


async def test_the_same_chunk_a_thousand_times_is_an_answer(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted(f"default: {{text: {'abcd' * 1000}, chunk_size: 4}}"))
    assert outcome.completion.text == "abcd" * 1000


@pytest.mark.parametrize(
    ("error", "expected", "facts"),
    [
        ("{status: 401}", errors.LlmUnauthenticatedError, {"status": "401"}),
        ("{status: 403}", errors.LlmUnauthenticatedError, {"status": "403"}),
        ("{status: 429}", errors.LlmRateLimitedError, {"status": "429"}),
        (
            "{status: 429, retry_after: 20}",
            errors.LlmRateLimitedError,
            {"status": "429", "retry_after_s": "20"},
        ),
        (
            '{status: 429, retry_after: "Wed, 21 Oct 2015 07:28:00 GMT"}',
            errors.LlmRateLimitedError,
            {"status": "429", "retry_after_s": "0"},
        ),
        (
            '{status: 429, retry_after: "soon"}',
            errors.LlmRateLimitedError,
            {"status": "429"},
        ),
        (
            "{status: 400, code: context_length_exceeded}",
            errors.LlmContextExceededError,
            {"status": "400"},
        ),
        (
            "{status: 400, message: This model's maximum context length is 8192 tokens.}",
            errors.LlmContextExceededError,
            {"status": "400"},
        ),
        ("{status: 400}", errors.LlmInvalidRequestError, {"status": "400"}),
        ("{status: 404}", errors.LlmInvalidRequestError, {"status": "404"}),
        ("{status: 422}", errors.LlmInvalidRequestError, {"status": "422"}),
        ("{status: 500}", errors.LlmUnavailableError, {"status": "500"}),
        ("{status: 503}", errors.LlmUnavailableError, {"status": "503"}),
        ("{status: 529}", errors.LlmUnavailableError, {"status": "529"}),
    ],
)
async def test_a_status_of_failure_is_the_same_error_with_the_same_facts(
    scripted: Serve, ask_both: Any, error: str, expected: type[errors.LlmError], facts: dict[str, str]
) -> None:
    outcome = await ask_both(await scripted(f"default: {{error: {error}}}"))
    assert outcome.error is expected
    assert outcome.reason == expected.reason
    assert dict(outcome.facts) == {"model": "m", **facts}


async def test_an_error_quotes_the_provider_within_bounds_and_without_the_key(
    scripted: Serve, ask_both: Any
) -> None:
    message = "Incorrect API key provided: sk-secret-key. " + "x" * 5000
    base_url = await scripted(f'default: {{error: {{status: 401, message: "{message}"}}}}')
    outcome = await ask_both(base_url, api_key="sk-secret-key")
    assert "check api_key" in outcome.message
    assert "Incorrect API key provided: ***." in outcome.message
    assert "sk-secret" not in outcome.message
    assert len(outcome.message) < 600


async def test_an_answer_that_is_cut_off_is_unavailable(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted("default: {text: hello you there, chunk_size: 5, cut: 3}"))
    assert outcome.error is errors.LlmUnavailableError
    assert outcome.shown == "hello you "


async def test_a_page_instead_of_an_answer_is_an_invalid_response(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted("default: {garbage: <html>Welcome</html>}"))
    assert outcome.error is errors.LlmInvalidResponseError


async def test_a_server_that_never_answers_is_a_timeout(scripted: Serve, ask_both: Any) -> None:
    outcome = await ask_both(await scripted("default: {hang: true}"), timeout_s=0.2)
    assert outcome.error is errors.LlmTimeoutError
    assert dict(outcome.facts) == {"model": "m", "timeout_s": "0.2"}


async def test_a_timeout_counts_from_request_to_last_byte(scripted: Serve, ask_both: Any) -> None:
    # Each wait is shorter than the timeout; all of them are longer.
    base_url = await scripted("default: {text: one two three four, chunk_size: 1, chunk_delay_ms: 60}")
    outcome = await ask_both(base_url, timeout_s=0.3)
    assert outcome.error is errors.LlmTimeoutError
    assert outcome.shown.startswith("o")


async def test_a_server_that_is_not_there_is_unavailable(ask_both: Any, unused_tcp_port: int) -> None:
    outcome = await ask_both(f"http://127.0.0.1:{unused_tcp_port}/v1")
    assert outcome.error is errors.LlmUnavailableError
    assert dict(outcome.facts) == {"model": "m"}


async def test_generation_settings_tools_and_headers_reach_the_server(raw: Any, ask_both: Any) -> None:
    raw.pieces = [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"]
    await ask_both(
        raw.base_url,
        tools=[WEATHER],
        generation=Generation(temperature=0.5, top_p=0.9, max_output_tokens=7, seed=3, stop=["END"]),
        api_key="sk-of-the-test",
        headers={"X-Team": "blue"},
    )
    heads, bodies = zip(*(each.split(b"\r\n\r\n", 1) for each in raw.asked), strict=True)
    direct, litellm = map(json.loads, bodies)
    assert (
        direct
        == litellm
        == {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "tools": [WEATHER],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 7,
            "seed": 3,
            "stop": ["END"],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    for head in heads:
        assert b"authorization: bearer sk-of-the-test" in head.lower()
        assert b"x-team: blue" in head.lower()


async def test_an_output_schema_reaches_the_server_as_response_format(
    scripted: Serve, ask_both: Any, seen: Seen
) -> None:
    schema = {
        "type": "object",
        "properties": {"größe": {"type": "integer", "maximum": 2**53 + 1}},
        "$defs": {"a": {"pattern": "^x"}},
    }
    base_url = await scripted("rules: [{when: {response_format: json_schema}, structured: {größe: 1}}]")
    outcome = await ask_both(base_url, output_schema=schema)
    assert outcome.completion.text == '{"größe": 1}'
    formats = [each["response_format"] for each in await seen(base_url)]
    assert formats == [{"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}] * 2


async def test_content_parts_reach_the_server_as_they_are(scripted: Serve, ask_both: Any, seen: Seen) -> None:
    image = "data:image/png;base64,iVBORw0KGgo="
    messages = [
        {"role": "system", "content": "Look."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Was ist das? 🎉"},
                {"type": "image_url", "image_url": {"url": image}},
                {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                {
                    "type": "file",
                    "file": {"filename": "r.pdf", "file_data": "data:application/pdf;base64,JVBERi0="},
                },
            ],
        },
        {"role": "assistant", "content": "I ask.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "cold"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]},
    ]
    base_url = await scripted('default: {text: "{attachments}"}')
    outcome = await ask_both(base_url, messages=messages)
    assert outcome.completion.text == "image/png, 8 bytes"
    assert [each["messages"] for each in await seen(base_url)] == [messages] * 2


async def test_a_key_of_the_process_never_reaches_a_server_of_the_users_own(
    raw: Any, ask_both: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-operator")
    raw.pieces = [b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"]
    await ask_both(raw.base_url, api_key=None)
    assert len(raw.asked) == 2
    assert not any(b"operator" in each for each in raw.asked)
