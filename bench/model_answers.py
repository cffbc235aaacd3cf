"""What the fake model answers, as prebuilt bytes: OpenAI chat completions in chunked HTTP."""

import re

import orjson

CHUNKS = 200
"""Chunks of an answer of the text scenario."""
CHUNKS_A_WRITE = 10
"""How many of them go out in one write; the next follow in the next pass of the loop."""
WORD = "lorem "
TEXT = WORD * CHUNKS
"""The whole answer of the text scenario."""
ANSWER = "The tool said hello."
"""The last answer of the agent scenario."""
ARGUMENTS = '{"text":"hello"}'
"""What a tool is called with."""
ASK_USER = "ask_user"
"""The tool that is a question to a person."""
QUESTION = '{"question":"May I?"}'
"""What `ask_user` is called with."""

HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


def plain(text: str) -> bytes:
    """A whole answer of plain text."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (
        len(text),
        text.encode(),
    )


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


def tool_call(name: str) -> bytes:
    """The call of one tool."""

    def piece(**call: object) -> dict[str, object]:
        return {"tool_calls": [{"index": 0, **call}]}

    arguments = QUESTION if name == ASK_USER else ARGUMENTS
    begin = piece(id="call_1", type="function", function={"name": name, "arguments": ""})
    chunks = [_chunk({"role": "assistant", "content": None}), _chunk(begin)]
    chunks += [_chunk(piece(function={"arguments": part})) for part in (arguments[:7], arguments[7:])]
    return HEAD + b"".join(chunks) + _end("tool_calls", 12)


def answer() -> bytes:
    """A short text."""
    words = re.findall(r"\S+\s*", ANSWER)
    chunks = [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": word}) for word in words)]
    return HEAD + b"".join(chunks) + _end("stop", len(words))


def text(chunks_a_write: int) -> list[bytes]:
    """The writes of a text of CHUNKS chunks."""
    chunks = [_chunk({"content": WORD}) for _ in range(CHUNKS)]
    writes = [b"".join(chunks[at : at + chunks_a_write]) for at in range(0, CHUNKS, chunks_a_write)]
    writes[0] = HEAD + writes[0]
    writes[-1] += _end("stop", CHUNKS)
    return writes
