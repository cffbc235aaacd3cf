"""An MCP server over streamable HTTP that answers in JSON of no stated length, and much of it if asked.

With `--modern` it speaks revision 2026-07-28 and says so where it is asked for a handshake.
"""

import sys
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

CHUNK = b"x" * 1_000_000
CHUNKS = 50


REVISION = "2026-07-28" if "--modern" in sys.argv else "2025-11-25"
MARKED = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
UNUSABLE = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": ""}}}
MODERN_TOOLS = [
    {"name": "marked", "inputSchema": MARKED},
    {"name": "crooked", "inputSchema": "none"},
    {"name": "unusable", "inputSchema": UNUSABLE},
    {"title": "nameless"},
]


def result(method: str, request: Request) -> dict[str, Any]:
    """The result of a request."""
    if method == "initialize":
        info = {"name": "content", "version": "1"}
        capabilities = {"tools": {}, "resources": {}}
        return {"protocolVersion": REVISION, "capabilities": capabilities, "serverInfo": info}
    if method == "resources/list":
        return {"resources": [{"uri": "test://1", "name": request.headers.get("mcp-method", "")}, {"uri": 5}]}
    if method == "resources/read":
        return {"contents": [{"uri": "test://1", "text": request.headers.get("mcp-name", "")}]}
    if REVISION == "2026-07-28":
        return {"tools": MODERN_TOOLS}
    return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in ("big", "small")]}


async def answer(request: Request) -> Response:
    """Answer one POST."""
    message = await request.json()
    if "id" not in message:
        return Response(status_code=202)
    if message["method"] != "tools/call":
        body = {"jsonrpc": "2.0", "id": message["id"], "result": result(message["method"], request)}
        return Response(orjson.dumps(body), media_type="application/json")
    if REVISION == "2026-07-28":
        # Without a resultType, which then is complete.
        text = request.headers.get("mcp-param-region", "no header")
        body = {
            "jsonrpc": "2.0",
            "id": message["id"],
            "result": {"content": [{"type": "text", "text": text}]},
        }
        return Response(orjson.dumps(body), media_type="application/json")
    is_big = message["params"]["name"] == "big"

    async def parts() -> Any:
        yield b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"' % message["id"]
        if is_big:
            for _ in range(CHUNKS):
                yield CHUNK
        yield b'small"}]}}'

    return StreamingResponse(parts(), media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/mcp", answer, methods=["POST"])])
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--http") + 1]))
