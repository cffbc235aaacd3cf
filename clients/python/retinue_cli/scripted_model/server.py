"""The scripted model's HTTP server: chat completions, the list of models, and what it was asked.

Answers depend on the request alone, but for `times`.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from retinue_cli.scripted_model.conversation import Conversation, read_conversation
from retinue_cli.scripted_model.rendering import Rendering, error_body
from retinue_cli.scripted_model.script import Answer, Failure, Script, load_script

SCRIPTED_HEADER = "X-Retinue-Scripted"
"""In every answer, with the script's name: no one should take a script for a model."""

_MAX_REQUEST_BYTES = 64 * 1024 * 1024
_MAX_KEPT_REQUESTS = 100
_MAX_KEPT_BYTES = 64 * 1024 * 1024
_SHUTDOWN_TIMEOUT_S = 0.2  # a script that hangs or delays must not hold up the end


class _ScriptedModel:
    """Answers requests from one script."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._used: dict[int, int] = {}
        self._number = 0
        self._kept: deque[bytes] = deque()
        self.name = f"scripted:{script.name}"

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._list_models)
        app.router.add_get("/v1/scripted/requests", self._list_requests)
        app.on_response_prepare.append(self._say_that_it_is_scripted)
        return app

    async def _say_that_it_is_scripted(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers[SCRIPTED_HEADER] = self._script.name

    async def _list_models(self, _: web.Request) -> web.Response:
        model = {"id": self.name, "object": "model", "created": 0, "owned_by": "retinue-scripted-model"}
        return web.json_response({"object": "list", "data": [model]})

    async def _list_requests(self, _: web.Request) -> web.Response:
        body = b'{"object": "list", "data": [%b]}' % b", ".join(self._kept)
        return web.Response(body=body, content_type="application/json")

    def _keep(self, request: bytes) -> None:
        self._kept.append(request)
        while len(self._kept) > _MAX_KEPT_REQUESTS or sum(map(len, self._kept)) > _MAX_KEPT_BYTES:
            self._kept.popleft()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        body = await _read_json(request)
        if isinstance(body, str):
            return _failed(Failure(status=400, message=body))
        self._keep(await request.read())
        conversation = _conversation(body)
        answer = self._script.answer_to(conversation, self._used)
        if answer is None:
            what = f"{self.name} has no answer for turn {conversation.turn}; give the script a default"
            return _failed(Failure(status=400, message=what, code="no_scripted_answer"))
        self._number += 1
        rendering = Rendering(self.name, self._number, answer, conversation)
        if answer.hang:
            await asyncio.Event().wait()  # until the client goes away or the server stops
        await asyncio.sleep(answer.delay_ms / 1000)
        return await self._send(request, body, answer, rendering)

    async def _send(
        self, request: web.Request, body: dict[str, Any], answer: Answer, rendering: Rendering
    ) -> web.StreamResponse:
        if answer.error is not None:
            return _failed(answer.error)
        if answer.garbage is not None:
            return web.Response(text=answer.garbage, content_type="text/html")
        if body.get("stream") is True:
            options = body.get("stream_options")
            include_usage = isinstance(options, dict) and options.get("include_usage") is True
            return await _stream(request, answer, rendering, include_usage=include_usage)
        if answer.cut is not None:
            return await _cut_whole(request, rendering)
        return web.json_response(rendering.whole())


async def _read_json(request: web.Request) -> Any:
    """The request's fields, or what is wrong with them as text."""
    try:
        body = await request.json()
    except ValueError:
        return "the body is not JSON"
    if not isinstance(body, dict) or not isinstance(body.get("model"), str):
        return "the body needs `model`, a text"
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return "the body needs `messages`, a list of objects"
    return body


def _conversation(body: dict[str, Any]) -> Conversation:
    asked = body.get("response_format")
    kind = asked.get("type") if isinstance(asked, dict) else None
    return read_conversation(body["model"], body["messages"], kind if isinstance(kind, str) else "text")


def _failed(failure: Failure) -> web.Response:
    headers = {} if failure.retry_after is None else {"Retry-After": str(failure.retry_after)}
    return web.json_response(error_body(failure), status=failure.status, headers=headers)


async def _stream(
    request: web.Request, answer: Answer, rendering: Rendering, *, include_usage: bool
) -> web.StreamResponse:
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    for place, chunk in enumerate(rendering.chunks(include_usage=include_usage)):
        if answer.cut is not None and place >= answer.cut:
            return _cut(request, response)
        if place and answer.chunk_delay_ms:
            await asyncio.sleep(answer.chunk_delay_ms / 1000)
        await response.write(b"data: %b\n\n" % json.dumps(chunk).encode())
    if answer.cut is not None:
        return _cut(request, response)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _cut_whole(request: web.Request, rendering: Rendering) -> web.StreamResponse:
    body = json.dumps(rendering.whole()).encode()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    return _cut(request, response)


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Close the connection after what was written, without the end that HTTP asks for."""
    if request.transport is not None:
        request.transport.close()
    return response


@asynccontextmanager
async def open_scripted_model(script: Script, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serve a script; gives the base URL, `http://127.0.0.1:40001/v1`. Raises OSError for a taken port."""
    # A handler is cancelled when its client goes away, so that nothing hangs on for no one.
    runner = web.AppRunner(
        _ScriptedModel(script).app(), handler_cancellation=True, shutdown_timeout=_SHUTDOWN_TIMEOUT_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{bound}/v1"
    finally:
        await runner.cleanup()


async def serve_scripted_model(
    script_path: Path, host: str, port: int, on_ready: Callable[[str], None]
) -> None:
    """Serve the script in a file until cancelled; `on_ready` gets the base URL once it can be asked.

    Raises ScriptError for a bad script and OSError for a taken port, both before `on_ready`.
    """
    script = load_script(script_path)
    async with open_scripted_model(script, host, port) as base_url:
        on_ready(base_url)
        await asyncio.Event().wait()
