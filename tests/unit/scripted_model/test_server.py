"""The scripted model over HTTP, as any client of the protocol meets it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from retinue_cli.scripted_model import (
    ScriptError,
    open_scripted_model,
    parse_script,
    serve_scripted_model,
    server,
)
from retinue_cli.scripted_model.server import SCRIPTED_HEADER

Serve = Callable[[str], Awaitable[str]]


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(source: str) -> str:
            return await stack.enter_async_context(open_scripted_model(parse_script(source)))

        yield start


def asked(said: str = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": said}], **more}


async def ask(http: aiohttp.ClientSession, base_url: str, body: Any) -> tuple[int, Any]:
    async with http.post(f"{base_url}/chat/completions", json=body) as response:
        return response.status, await response.json()


async def stream(http: aiohttp.ClientSession, base_url: str, **more: Any) -> list[Any]:
    body = asked(stream=True, **more)
    async with http.post(f"{base_url}/chat/completions", json=body) as response:
        assert response.content_type == "text/event-stream"
        events = (await response.text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [json.loads(each.removeprefix("data: ")) for each in events[:-2]]


async def test_it_says_that_it_is_scripted(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve(
        "name: demo\nrules: [{when: {user_contains: bad}, error: {status: 500}}]\ndefault: {text: a}"
    )
    _, whole = await ask(http, base_url, asked())
    chunks = await stream(http, base_url)
    for each in [whole, *chunks]:
        assert (each["model"], each["system_fingerprint"]) == ("scripted:demo", "scripted")
    for said in ("hi", "bad"):
        async with http.post(f"{base_url}/chat/completions", json=asked(said)) as response:
            assert response.headers[SCRIPTED_HEADER] == "demo"
    async with http.get(f"{base_url}/models") as response:
        models = (await response.json())["data"]
    assert [(each["id"], each["owned_by"]) for each in models] == [
        ("scripted:demo", "retinue-scripted-model")
    ]


async def test_text_is_cut_into_chunks_of_the_given_size(serve: Serve, http: aiohttp.ClientSession) -> None:
    chunks = await stream(http, await serve("default: {text: abcdefg, chunk_size: 3}"))
    deltas = [each["choices"][0]["delta"] for each in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "abc"},
        {"content": "def"},
        {"content": "g"},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_chunks_may_be_written_out(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve('default: {chunks: [a, "{last_user}", c]}')
    chunks = await stream(http, base_url)
    assert [each["choices"][0]["delta"].get("content") for each in chunks] == ["", "a", "hi", "c", None]
    _, whole = await ask(http, base_url, asked())
    assert whole["choices"][0]["message"]["content"] == "ahic"


async def test_usage_comes_in_a_chunk_of_its_own_when_asked_for(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    base_url = await serve("default: {text: abcde, usage: {input_tokens: 3, output_tokens: 2}}")
    assert all("usage" not in each for each in await stream(http, base_url))
    *_, last = await stream(http, base_url, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert (last["usage"]["prompt_tokens"], last["usage"]["total_tokens"]) == (3, 5)


async def test_usage_is_estimated_the_same_each_time(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("default: {text: abcde}")
    usages = [(await ask(http, base_url, asked("123456789")))[1]["usage"] for _ in range(2)]
    assert usages[0] == usages[1]
    assert (usages[0]["prompt_tokens"], usages[0]["completion_tokens"]) == (3, 2)


async def test_tool_calls_come_whole_and_in_pieces(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve(
        "default: {chunk_size: 4, tool_calls: ["
        "{name: a, id: x, arguments: {q: ['{last_user}', 1]}}, {name: b, arguments: '{'}]}"
    )
    _, whole = await ask(http, base_url, asked('"'))
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert (first["id"], first["type"], first["function"]["name"]) == ("x", "function", "a")
    assert json.loads(first["function"]["arguments"]) == {"q": ['"', 1]}
    assert second["function"] == {"name": "b", "arguments": "{"}

    deltas = [each["choices"][0]["delta"] for each in await stream(http, base_url)]
    pieces = [each["tool_calls"][0] for each in deltas if "tool_calls" in each]
    assert [each["index"] for each in pieces] == [0] * (len(pieces) - 2) + [1, 1]
    assert "".join(each["function"]["arguments"] for each in pieces[:-2]) == '{"q": ["hi", 1]}'
    assert all(len(each["function"]["arguments"]) <= 4 for each in pieces)


async def test_reasoning_comes_before_the_text(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve('default: {reasoning: "{last_user}, hm", text: abcd, chunk_size: 4}')
    deltas = [each["choices"][0]["delta"] for each in await stream(http, base_url)]
    assert deltas[1:-1] == [{"reasoning_content": "hi, "}, {"reasoning_content": "hm"}, {"content": "abcd"}]
    _, whole = await ask(http, base_url, asked())
    message = whole["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hi, hm", "abcd")
    assert whole["usage"]["completion_tokens"] == 3
    assert whole["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


async def test_a_structured_answer_is_the_text_of_its_json(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve(
        """
        rules:
          - when: {response_format: json_schema}
            structured: {said: ["{last_user}", 1]}
            chunk_size: 3
        default: {text: plain}
        """
    )
    output = {"type": "json_schema", "json_schema": {"name": "output", "schema": {}}}
    _, whole = await ask(http, base_url, asked('"ü"', response_format=output))
    assert json.loads(whole["choices"][0]["message"]["content"]) == {"said": ['"ü"', 1]}
    chunks = await stream(http, base_url, response_format=output)
    text = "".join(each["choices"][0]["delta"].get("content", "") for each in chunks)
    assert json.loads(text) == {"said": ["hi", 1]}
    for other in (None, {"type": "json_object"}, {"type": "text"}, {}, "json_schema"):
        _, whole = await ask(http, base_url, asked(response_format=other))
        assert whole["choices"][0]["message"]["content"] == "plain"


async def test_what_it_was_asked_can_be_seen(
    serve: Serve, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_url = await serve("rules: [{when: {user_contains: bad}, error: {status: 500}}]\ndefault: {text: a}")

    async def requests() -> list[Any]:
        async with http.get(f"{base_url}/scripted/requests") as response:
            data: list[Any] = (await response.json())["data"]
            return data

    assert await requests() == []
    bodies = [asked("bad"), asked("ü", stream=True, temperature=0.5)]
    for body in bodies:
        async with http.post(f"{base_url}/chat/completions", json=body) as response:
            await response.read()
    await ask(http, base_url, {"model": "m"})  # is none
    assert await requests() == bodies
    monkeypatch.setattr(server, "_MAX_KEPT_REQUESTS", 2)
    await ask(http, base_url, asked("third"))
    assert await requests() == [bodies[1], asked("third")]
    monkeypatch.setattr(server, "_MAX_KEPT_BYTES", 100)
    await ask(http, base_url, asked("fourth"))
    assert await requests() == [asked("fourth")]


async def test_a_rule_with_times_is_used_up(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("rules: [{times: 2, error: {status: 503}}]\ndefault: {text: back}")
    assert [(await ask(http, base_url, asked()))[0] for _ in range(4)] == [503, 503, 200, 200]


async def test_an_error_has_status_body_and_retry_after(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("default: {error: {status: 429, message: slow, code: limit, retry_after: 3}}")
    async with http.post(f"{base_url}/chat/completions", json=asked()) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
        assert (await response.json())["error"] == {
            "message": "slow",
            "type": "invalid_request_error",
            "param": None,
            "code": "limit",
        }


async def test_cut_closes_the_connection_in_the_middle(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("default: {text: abcdef, chunk_size: 1, cut: 3}")
    read = b""
    with pytest.raises(aiohttp.ClientPayloadError):  # noqa: PT012 (what came before counts too)
        async with http.post(f"{base_url}/chat/completions", json=asked(stream=True)) as response:
            async for each in response.content.iter_any():
                read += each
    assert read.count(b"data: ") == 3
    with pytest.raises(aiohttp.ClientPayloadError):
        await ask(http, base_url, asked())


async def test_delays_come_before_and_between_chunks(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("default: {text: abc, chunk_size: 1, delay_ms: 100, chunk_delay_ms: 50}")
    loop = asyncio.get_running_loop()
    started = loop.time()
    await ask(http, base_url, asked())
    assert loop.time() - started >= 0.1
    started = loop.time()
    await stream(http, base_url)
    assert loop.time() - started >= 0.1 + 4 * 0.05


async def test_garbage_is_sent_as_it_stands(serve: Serve, http: aiohttp.ClientSession) -> None:
    base_url = await serve("default: {garbage: <html>}")
    async with http.post(f"{base_url}/chat/completions", json=asked()) as response:
        assert (response.status, await response.text()) == (200, "<html>")


async def test_without_a_fitting_answer_it_says_so(serve: Serve, http: aiohttp.ClientSession) -> None:
    status, body = await ask(http, await serve("rules: [{when: {turn: 2}, text: a}]"), asked())
    assert (status, body["error"]["code"]) == (400, "no_scripted_answer")


@pytest.mark.parametrize(
    "body", ["text", [], {}, {"model": "m"}, {"model": "m", "messages": ["hi"]}, {"messages": []}]
)
async def test_a_request_that_is_none_is_refused(
    serve: Serve, http: aiohttp.ClientSession, body: Any
) -> None:
    status, answer = await ask(http, await serve("default: {text: a}"), body)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


def answering() -> int:
    """How many requests the server is answering."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return names.count("RequestHandler._handle_request")


async def test_a_client_that_goes_away_leaves_nothing_hanging(
    serve: Serve, http: aiohttp.ClientSession
) -> None:
    base_url = await serve("rules: [{times: 1, hang: true}]\ndefault: {text: a}")
    port = int(base_url.split(":")[2].partition("/")[0])
    async with asyncio.timeout(30):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        body = json.dumps(asked()).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        # The rule is used up: the first request hangs.
        assert (await ask(http, base_url, asked()))[0] == 200
        assert answering() == 1
        writer.close()
        await writer.wait_closed()
        while answering():  # noqa: ASYNC110 (a task's end on the server's side sets no event here)
            await asyncio.sleep(0)


async def test_it_serves_a_file_until_cancelled(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    path = tmp_path / "demo.yaml"
    path.write_text("default: {text: a}\nrules: [{when: {user_contains: hang}, hang: true}]", "utf-8")
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(30):
        serving = asyncio.create_task(serve_scripted_model(path, "127.0.0.1", 0, ready.set_result))
        base_url = await ready
        assert (await ask(http, base_url, asked()))[1]["model"] == "scripted:demo"
        hanging = asyncio.create_task(ask(http, base_url, asked("hang")))
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(aiohttp.ClientError):
            await hanging
        with pytest.raises(aiohttp.ClientError):
            await ask(http, base_url, asked())


async def test_a_bad_script_is_told_before_it_serves(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("defalt: {text: a}", "utf-8")
    with pytest.raises(ScriptError, match=r"bad\.yaml:1"):
        await serve_scripted_model(path, "127.0.0.1", 0, print)
