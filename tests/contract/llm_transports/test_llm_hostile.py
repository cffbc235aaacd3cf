"""Both transports give the same for servers that bend or break the protocol."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from retinue import errors
from retinue_engine.llm.model import ChatRequest, Endpoint, TokenUsage, ToolRequest
from retinue_engine.llm.routing import Models

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"
TEXT = {"content": "Grüße 🎉"}


def chunk(delta: dict[str, Any] | None, finish_reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return event({"id": "x", "object": "chat.completion.chunk", "created": 0, "choices": [choice], **more})


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def calls(*deltas: dict[str, Any]) -> bytes:
    return b"".join(chunk({"tool_calls": [delta]}) for delta in deltas) + chunk({}, "tool_calls") + DONE


def function(name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


async def test_a_stream_may_be_cut_anywhere(raw: Any, ask_both: Any) -> None:
    stream = chunk(TEXT) + chunk({}, "stop") + DONE
    for offset in range(0, len(stream), 7):
        raw.pieces = [HEAD, stream[:offset], stream[offset:]]
        assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


async def test_a_stream_may_come_byte_by_byte(raw: Any, ask_both: Any) -> None:
    stream = HEAD + chunk(TEXT) + chunk({}, "stop") + DONE
    raw.pieces = [stream[place : place + 1] for place in range(len(stream))]
    assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


async def test_line_ends_comments_and_other_fields_do_not_matter(raw: Any, ask_both: Any) -> None:
    stream = b": keepalive\n\nevent: message\nretry: 5\n" + chunk(TEXT) + b":\n\n" + chunk({}, "stop") + DONE
    raw.pieces = [HEAD, stream.replace(b"\n", b"\r\n")]
    assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


async def test_data_over_several_lines_is_one_event(raw: Any, ask_both: Any) -> None:
    lines = json.dumps(json.loads(chunk(TEXT)[6:]), indent=1).encode().split(b"\n")
    raw.pieces = [HEAD, b"".join(b"data: " + line + b"\n" for line in lines) + b"\n", chunk({}, "stop"), DONE]
    assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


async def test_a_line_of_a_megabyte_is_read(raw: Any, ask_both: Any) -> None:
    raw.pieces = [HEAD, chunk({"content": "x" * 1_000_000}), chunk({}, "stop"), DONE]
    assert len((await ask_both(raw.base_url)).completion.text) == 1_000_000


async def test_chunks_without_choices_or_content_are_passed_over(raw: Any, ask_both: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    raw.pieces = [
        HEAD,
        event({"id": "x", "choices": [], "prompt_filter_results": []}),
        chunk({"role": "assistant", "content": None}),
        chunk({"content": ""}),
        chunk(TEXT, usage=None),
        chunk(None, "stop"),
        event({"id": "x", "choices": [], "usage": usage}),
        DONE,
    ]
    completion = (await ask_both(raw.base_url)).completion
    assert completion.text == "Grüße 🎉"
    assert completion.usage == TokenUsage(3, 2)
    assert completion.model == "m"


async def test_usage_may_come_with_the_last_choice(raw: Any, ask_both: Any) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "prompt_tokens_details": None}
    raw.pieces = [HEAD, chunk(TEXT), chunk({}, "stop", usage=usage), DONE]
    assert (await ask_both(raw.base_url)).completion.usage == TokenUsage(3, 2)


async def test_a_stream_may_end_without_done(raw: Any, ask_both: Any) -> None:
    raw.pieces = [HEAD, chunk(TEXT), chunk({}, "stop")]
    assert (await ask_both(raw.base_url)).completion.finish_reason == "stop"


async def test_a_connection_that_stays_open_after_done_holds_nothing_up(raw: Any, ask_both: Any) -> None:
    raw.pieces = [HEAD, chunk(TEXT), chunk({}, "stop"), DONE]
    raw.holds = True
    assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(
            calls(function("now", "{}", index=0), function("add", '{"a":1}', index=1)),
            [("made up", "now", "{}"), ("made up", "add", '{"a":1}')],
            id="no ids",
        ),
        pytest.param(
            calls(function("now", "{}", id="a"), function("add", '{"a":1}', id="b")),
            [("a", "now", "{}"), ("b", "add", '{"a":1}')],
            id="no index, whole calls",
        ),
        pytest.param(
            calls(function("now", "{}", id="a", index=0), function("add", '{"a":1}', id="b", index=0)),
            [("a", "now", "{}"), ("b", "add", '{"a":1}')],
            id="every call at index 0",
        ),
        pytest.param(
            calls(function("add", '{"a":', id="a", index=0), function("add", "1}", id="a", index=0)),
            [("a", "add", '{"a":1}')],
            id="id and name with each piece",
        ),
        pytest.param(
            calls(function("now", "{}", id="a", index=0), function("now", "{}", id="a", index=1)),
            [("a", "now", "{}"), ("made up", "now", "{}")],
            id="one id twice",
        ),
        pytest.param(
            calls(function("add", None, id="a", index=0), function(None, '{"a":1}', index=0)),
            [("a", "add", '{"a":1}')],
            id="null name and arguments",
        ),
        pytest.param(
            calls(
                function("a", '{"x"', id="a", index=0),
                function("b", '{"y"', id="b", index=1),
                function(None, ":1}", index=0),
                function(None, ":2}", index=1),
            ),
            [("a", "a", '{"x":1}'), ("b", "b", '{"y":2}')],
            id="interleaved",
        ),
    ],
)
async def test_tool_calls_are_read_liberally(
    raw: Any, ask_both: Any, stream: bytes, expected: list[tuple[str, str, str]]
) -> None:
    raw.pieces = [HEAD, stream]
    completion = (await ask_both(raw.base_url)).completion
    assert completion.tool_calls == tuple(ToolRequest(*each) for each in expected)
    assert completion.finish_reason == "tool_calls"


async def test_a_tool_call_without_a_name_is_an_invalid_response(raw: Any, ask_both: Any) -> None:
    raw.pieces = [HEAD, calls(function(None, "{}", index=0, id="a"))]
    assert (await ask_both(raw.base_url)).error is errors.LlmInvalidResponseError


async def test_a_whole_answer_in_json_is_taken_too(raw: Any, ask_both: Any) -> None:
    message = {
        "role": "assistant",
        "reasoning_content": "Hm.",
        "content": "Hallo",
        "tool_calls": [function("now", "{}", id="a")],
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    answer = {"model": "x", "choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
    raw.pieces = [JSON_HEAD, json.dumps(answer).encode()]
    outcome = await ask_both(raw.base_url)
    assert outcome.shown == outcome.completion.text == "Hallo"
    assert outcome.thought == outcome.completion.reasoning == "Hm."
    assert outcome.completion.tool_calls == (ToolRequest("a", "now", "{}"),)
    assert outcome.completion.usage == TokenUsage(3, 2)


@pytest.mark.parametrize(
    ("deltas", "reasoning"),
    [
        pytest.param([{"reasoning_content": "a"}, {"reasoning_content": "b"}], "ab", id="reasoning_content"),
        pytest.param([{"reasoning": "a"}, {"reasoning": "b", "content": None}], "ab", id="reasoning"),
        pytest.param([{"reasoning_content": "ab", "reasoning": "ab"}], "ab", id="both for the same"),
        pytest.param([{"reasoning_content": None, "reasoning": ""}], "", id="null and empty"),
        pytest.param([{"reasoning": {"effort": "low"}}, {"reasoning_content": ["a"]}], "", id="not text"),
        pytest.param([{"reasoning": "a\ud83d"}], "a\ufffd", id="half of a surrogate pair"),
    ],
)
async def test_reasoning_is_read_by_either_name(
    raw: Any, ask_both: Any, deltas: list[dict[str, Any]], reasoning: str
) -> None:
    sent = [json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() for delta in deltas]
    raw.pieces = [HEAD, *(b"data: " + each + b"\n\n" for each in sent), chunk(TEXT), chunk({}, "stop"), DONE]
    completion = (await ask_both(raw.base_url)).completion
    assert (completion.reasoning, completion.text) == (reasoning, "Grüße 🎉")


@pytest.mark.parametrize("transport", ["direct", "litellm"])
async def test_reasoning_and_text_are_shown_in_the_order_in_which_they_came(
    raw: Any, models: Models, transport: Any
) -> None:
    deltas = [{"reasoning": "a"}, {"reasoning": "b"}, {"content": "c"}, {"reasoning": "d"}, {"content": "e"}]
    # One read holds all of them.
    raw.pieces = [HEAD + b"".join(map(chunk, deltas)) + chunk({}, "stop") + DONE]
    shown: list[tuple[str, str]] = []
    completion = await models.complete(
        transport,
        Endpoint("m", raw.base_url, "k", {}, 60),
        ChatRequest([{"role": "user", "content": "hi"}], []),
        lambda text: shown.append(("text", text)),
        lambda text: shown.append(("reasoning", text)),
        protocol="openai_chat",
    )
    if transport == "direct":
        assert shown == [("reasoning", "ab"), ("text", "c"), ("reasoning", "d"), ("text", "e")]
    assert [kind for kind, _ in itertools.groupby(shown, lambda each: each[0])] == ["reasoning", "text"] * 2
    assert (completion.reasoning, completion.text) == ("abd", "ce")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(HEAD, id="nothing"),
        pytest.param(HEAD + DONE, id="nothing but the end"),
        pytest.param(HEAD + b"data: {nonsense\n\n", id="data that is not JSON"),
        pytest.param(HEAD + chunk(TEXT) + b"data: {nonsense\n\n", id="later data that is not JSON"),
        pytest.param(HEAD + b"data: \xff\xfe\n\n", id="data that is not UTF-8"),
        pytest.param(HEAD + b"data: 7\n\n" + DONE, id="a number"),
        pytest.param(HEAD + b'data: {"object": "else"}\n\n' + DONE, id="another object"),
        pytest.param(HEAD + b'data: {"choices": "none"}\n\n' + DONE, id="choices that are text"),
        pytest.param(HEAD + chunk({"content": {"a": 1}}, "stop") + DONE, id="content that is an object"),
        pytest.param(JSON_HEAD + b"{nonsense", id="a body that is not JSON"),
        pytest.param(JSON_HEAD + b"[]", id="a body that is a list"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000, id="a header without end"),
    ],
)
async def test_what_is_not_the_protocol_is_an_invalid_response(raw: Any, ask_both: Any, body: bytes) -> None:
    raw.pieces = [body]
    outcome = await ask_both(raw.base_url)
    assert outcome.error is errors.LlmInvalidResponseError
    assert dict(outcome.facts) == {"model": "m"}


async def test_headers_without_end_are_ended_by_the_timeout(raw: Any, ask_both: Any) -> None:
    raw.pieces = [b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"]
    raw.holds = True
    assert (await ask_both(raw.base_url, timeout_s=0.3)).error is errors.LlmTimeoutError


@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        ({"message": "m", "code": 429}, errors.LlmRateLimitedError, "429"),
        ({"message": "m", "code": "rate_limit_exceeded"}, errors.LlmRateLimitedError, "429"),
        ({"message": "m", "code": "invalid_api_key"}, errors.LlmUnauthenticatedError, "401"),
        ({"message": "m", "code": "context_length_exceeded"}, errors.LlmContextExceededError, "400"),
        ({"message": "m", "type": "invalid_request_error"}, errors.LlmInvalidRequestError, "400"),
        ({"message": "m", "type": "server_error"}, errors.LlmUnavailableError, "500"),
        ({"message": "m"}, errors.LlmUnavailableError, "500"),
    ],
)
async def test_an_error_in_the_stream_goes_by_its_code(
    raw: Any, ask_both: Any, error: dict[str, Any], expected: type[errors.LlmError], status: str
) -> None:
    raw.pieces = [HEAD, chunk(TEXT), event({"error": error})]
    outcome = await ask_both(raw.base_url)
    assert outcome.error is expected
    assert dict(outcome.facts) == {"model": "m", "status": status}


async def test_an_error_alone_under_status_200_goes_by_its_code(raw: Any, ask_both: Any) -> None:
    raw.pieces = [JSON_HEAD, b'{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}']
    assert (await ask_both(raw.base_url)).error is errors.LlmRateLimitedError


async def test_an_error_that_is_not_json_is_quoted(raw: Any, ask_both: Any) -> None:
    raw.pieces = [b"HTTP/1.1 502 Bad\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<h1>Bad gateway"]
    outcome = await ask_both(raw.base_url)
    assert outcome.error is errors.LlmUnavailableError
    assert "<h1>Bad gateway" in outcome.message


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="before the headers"),
        pytest.param(HEAD + chunk(TEXT), id="without a finish reason"),
        pytest.param(HEAD + chunk(TEXT) + chunk(TEXT)[:30], id="within an event"),
        pytest.param(
            HEAD.replace(b"connection", b"content-length: 9999\r\nconnection") + chunk(TEXT), id="short"
        ),
    ],
)
async def test_a_connection_that_breaks_off_is_unavailable(raw: Any, ask_both: Any, body: bytes) -> None:
    raw.pieces = [body]
    assert (await ask_both(raw.base_url)).error is errors.LlmUnavailableError


async def test_a_connection_that_breaks_off_after_the_finish_reason_lost_nothing(
    raw: Any, ask_both: Any
) -> None:
    raw.pieces = [HEAD.replace(b"connection", b"content-length: 9999\r\nconnection"), chunk(TEXT, "stop")]
    assert (await ask_both(raw.base_url)).completion.text == "Grüße 🎉"


async def test_halves_of_surrogate_pairs_never_come_out(raw: Any, ask_both: Any) -> None:
    half = b'data: {"choices": [{"index": 0, "delta": {"content": "a\\ud83d"}, "finish_reason": "stop"}]}\n\n'
    raw.pieces = [HEAD, half, DONE]
    assert (await ask_both(raw.base_url)).completion.text == "a\ufffd"


@pytest.mark.parametrize("transport", ["direct", "litellm"])
@pytest.mark.parametrize("begun", [False, True], ids=["before its answer", "in its answer"])
async def test_a_cancelled_call_closes_its_connection(
    raw: Any, models: Models, transport: Any, *, begun: bool
) -> None:
    raw.pieces = [HEAD, chunk(TEXT)] if begun else []
    raw.holds = True
    shown = asyncio.Event()
    call = asyncio.create_task(
        models.complete(
            transport,
            Endpoint("m", raw.base_url, "k", {}, 60),
            ChatRequest([{"role": "user", "content": "hi"}], []),
            lambda _: shown.set(),
            protocol="openai_chat",
        )
    )
    async with asyncio.timeout(30):
        await (shown if begun else raw.arrived).wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await raw.gone.wait()


@pytest.mark.parametrize("transport", ["direct", "litellm"])
async def test_a_hundred_calls_at_once_do_not_mix(
    scripted: Callable[[str], Awaitable[str]], models: Models, transport: Any
) -> None:
    base_url = await scripted('default: {text: "{last_user}", chunk_size: 3}')

    async def ask(number: int) -> None:
        said = f"call {number} " * 10
        shown: list[str] = []
        endpoint = Endpoint("m", base_url, "k", {}, 60)
        request = ChatRequest([{"role": "user", "content": said}], [])
        completion = await models.complete(transport, endpoint, request, shown.append, protocol="openai_chat")
        assert completion.text == "".join(shown) == said

    await asyncio.gather(*map(ask, range(100)))
