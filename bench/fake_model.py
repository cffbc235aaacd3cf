"""A fake model, so fast that it is not what is measured: OpenAI chat completions from prebuilt bytes.

`POST /agent/...` asks for one tool call, and after a tool's result answers a short text; `POST /paced/...`
does the same after PACE_S each time. `POST /text/...` answers CHUNKS chunks of text. The first line of output
is the port.
"""

import argparse
import asyncio
import os
import re
from typing import cast

import orjson
import uvloop

CHUNKS = 200
"""Chunks of an answer of the text scenario."""
CHUNKS_A_WRITE = 10
"""How many of them go out in one write; the next follow in the next pass of the loop."""
PACE_S = 0.1
"""How long the paced scenario thinks."""
WORD = "lorem "
TEXT = WORD * CHUNKS
"""The whole answer of the text scenario."""
ANSWER = "The tool said hello."
"""The last answer of the agent scenario."""
ARGUMENTS = '{"text":"hello"}'
"""What the tool is called with."""

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_ROLE = re.compile(rb'"role":\s*"(\w+)"')
_TOOL = re.compile(rb'"tools":\s*\[.*?"name":\s*"([^"]+)"', re.DOTALL)


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(value: object) -> bytes:
    return _http_chunk(b"data: " + orjson.dumps(value) + b"\n\n")


def _chunk(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _event(_envelope([choice]))


def _envelope(choices: list[object], **more: object) -> dict[str, object]:
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    return {**envelope, "choices": choices, **more}


def _end(finish_reason: str, output_tokens: int) -> bytes:
    usage = {"prompt_tokens": 50, "completion_tokens": output_tokens, "total_tokens": 50 + output_tokens}
    last = _chunk({}, finish_reason) + _event(_envelope([], usage=usage))
    return last + _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _tool_call(name: str) -> bytes:
    def piece(**call: object) -> dict[str, object]:
        return {"tool_calls": [{"index": 0, **call}]}

    begin = piece(id="call_1", type="function", function={"name": name, "arguments": ""})
    chunks = [_chunk({"role": "assistant", "content": None}), _chunk(begin)]
    chunks += [_chunk(piece(function={"arguments": part})) for part in (ARGUMENTS[:7], ARGUMENTS[7:])]
    return _HEAD + b"".join(chunks) + _end("tool_calls", 12)


def _answer() -> bytes:
    words = re.findall(r"\S+\s*", ANSWER)
    chunks = [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": word}) for word in words)]
    return _HEAD + b"".join(chunks) + _end("stop", len(words))


def _text() -> list[bytes]:
    chunks = [_chunk({"content": WORD}) for _ in range(CHUNKS)]
    writes = [b"".join(chunks[at : at + CHUNKS_A_WRITE]) for at in range(0, CHUNKS, CHUNKS_A_WRITE)]
    writes[0] = _HEAD + writes[0]
    writes[-1] += _end("stop", CHUNKS)
    return writes


class FakeModel(asyncio.Protocol):
    """One connection."""

    _answer = _answer()
    _text = _text()
    _tool_calls: dict[bytes, bytes] = {}  # noqa: RUF012 - one table for all connections
    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(buffer, 0, end + 2)
            whole = end + 4 + (int(length[1]) if length else 0)
            if len(buffer) < whole:
                break
            self._serve(buffer[:end], buffer[end + 4 : whole])
            buffer = buffer[whole:]
        self._buffer = buffer

    def _serve(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /text/"):
            self._write_text(0)
        elif head.startswith(b"POST /agent/"):
            self._transport.write(self._agent(body))
        elif head.startswith(b"POST /paced/"):
            asyncio.get_running_loop().call_later(PACE_S, self._write, self._agent(body))
        else:
            self._transport.write(_NOT_FOUND)

    def _agent(self, body: bytes) -> bytes:
        roles = _ROLE.findall(body)
        tool = _TOOL.search(body)
        if tool is None or (roles and roles[-1] == b"tool"):
            return self._answer
        made = self._tool_calls.get(tool[1])
        if made is None:
            made = self._tool_calls[tool[1]] = _tool_call(tool[1].decode())
        return made

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _write_text(self, number: int) -> None:
        self._write(self._text[number])
        if number + 1 < len(self._text) and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._write_text, number + 1)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(FakeModel, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, help="the processor core to stay on")
    core = parser.parse_args().core
    if core is not None:
        os.sched_setaffinity(0, {core})
    uvloop.run(_serve())
