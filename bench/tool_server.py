"""A minimal MCP server over stdio with one tool, `echo`: JSON-RPC lines, no SDK, so that it costs little."""

import argparse
import os
from typing import Any

import orjson

TOOL = {
    "name": "echo",
    "description": "Answers what it is told.",
    "inputSchema": {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "annotations": {"readOnlyHint": True, "idempotentHint": True},
}
_READ_BYTES = 256 * 1024
_METHOD_NOT_FOUND = -32601


def _result(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "tools/call":
        return {"content": [{"type": "text", "text": params["arguments"]["text"]}], "isError": False}
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "initialize":
        return {
            "protocolVersion": params["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench-echo", "version": "1"},
        }
    return {} if method == "ping" else None


def _answer(line: bytes) -> bytes:
    message = orjson.loads(line)
    if "id" not in message or "method" not in message:
        return b""
    result = _result(message["method"], message.get("params") or {})
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    if result is None:
        answer["error"] = {"code": _METHOD_NOT_FOUND, "message": "no such method"}
    else:
        answer["result"] = result
    return orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE)


def serve() -> None:
    """Answer until the input ends."""
    rest = b""
    while data := os.read(0, _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        answers = b"".join([_answer(line) for line in lines if line])
        while answers:
            answers = answers[os.write(1, answers) :]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", type=int, help="the processor core to stay on")
    core = parser.parse_args().core
    if core is not None:
        os.sched_setaffinity(0, {core})
    serve()
