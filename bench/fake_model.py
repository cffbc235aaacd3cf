"""A fake model, so fast that it is not what is measured: OpenAI chat completions from prebuilt bytes.

`POST /agent/...` asks for one tool call, and after a tool's result answers a short text; `POST /paced/...`
does the same after PACE_S each time, and `POST /held/...` only once all are released. `POST /text/...`
answers CHUNKS chunks of text; `POST /watched/...` the same once it is released, and one chunk each CHUNK_S.
`GET /held` answers how many requests are held, `POST /release` lets them go. The first line of output is
the port.
"""

import argparse
import asyncio
import os
import re
from collections.abc import Callable
from typing import cast

import uvloop

from bench import model_answers

PACE_S = 0.3
"""How long the paced scenario thinks: as long as quick models do until their first token."""
CHUNK_S = 0.02
"""How long one chunk of a watched text is after the one before."""

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_ROLE = re.compile(rb'"role":\s*"(\w+)"')
_TOOL = re.compile(rb'"tools":\s*\[.*?"name":\s*"([^"]+)"', re.DOTALL)


class FakeModel(asyncio.Protocol):
    """One connection."""

    _answer = model_answers.answer()
    _text = model_answers.text(model_answers.CHUNKS_A_WRITE)
    _slow_text = model_answers.text(1)
    # Each a single table for all connections.
    _tool_calls: dict[bytes, bytes] = {}  # noqa: RUF012 - see above
    _held: list[Callable[[], None]] = []  # noqa: RUF012 - see above
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
        elif head.startswith((b"POST /held/", b"POST /watched/", b"GET /held ", b"POST /release ")):
            self._serve_held(head, body)
        else:
            self._transport.write(model_answers.NOT_FOUND)

    def _serve_held(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST /watched/"):
            self._held.append(self._begin_slow_text)
        elif head.startswith(b"POST /held/") and _asks_tool(body):
            self._held.append(lambda: self._write(self._agent(body)))
        elif head.startswith(b"POST /held/"):
            self._transport.write(self._answer)
        elif head.startswith(b"GET"):
            self._transport.write(model_answers.plain(str(len(self._held))))
        else:
            for go_on in self._held:
                go_on()
            self._held.clear()
            self._transport.write(model_answers.plain("released"))

    def _agent(self, body: bytes) -> bytes:
        tool = _asks_tool(body)
        if tool is None:
            return self._answer
        made = self._tool_calls.get(tool)
        if made is None:
            made = self._tool_calls[tool] = model_answers.tool_call(tool.decode())
        return made

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    def _write_text(self, number: int) -> None:
        self._write(self._text[number])
        if number + 1 < len(self._text) and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._write_text, number + 1)

    def _begin_slow_text(self) -> None:
        loop = asyncio.get_running_loop()
        # At fixed times: one that is late delays none of the next.
        for number, data in enumerate(self._slow_text):
            loop.call_at(loop.time() + number * CHUNK_S, self._write, data)


def _asks_tool(body: bytes) -> bytes | None:
    """The first tool of a request that has tools and no result of one yet."""
    roles = _ROLE.findall(body)
    tool = _TOOL.search(body)
    return None if tool is None or (roles and roles[-1] == b"tool") else tool[1]


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
