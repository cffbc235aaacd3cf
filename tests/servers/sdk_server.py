"""A real MCP server, made with the SDK: stdio by default, else `--http PORT` or `--sse PORT`.

With `--tls CERTIFICATE KEY CA` after it, HTTP is over TLS, and clients have to show a certificate of that CA.
"""

import os
import ssl
import sys
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, Image, MCPServer
from pydantic import BaseModel

server = MCPServer("sdk-server")


def note(folder: str, name: str) -> None:
    """Leave a sign for the test."""
    Path(folder, name).touch()


class Sum(BaseModel):
    """A structured answer."""

    total: int


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
def add(a: int, b: int) -> Sum:
    """Add two numbers."""
    return Sum(total=a + b)


@server.tool()
def fail(why: str) -> str:
    """Fail as a tool."""
    raise ValueError(why)


@server.tool()
def picture() -> Image:
    """Return an image."""
    return Image(data=b"\x89PNG picture", format="png")


@server.tool()
def pid() -> int:
    """The process that answers."""
    return os.getpid()


@server.tool()
async def count(to: int, ctx: Context) -> str:
    """Count with progress."""
    for number in range(1, to + 1):
        await ctx.report_progress(number, to, f"step {number}")
    return "done"


@server.tool()
async def wait(folder: str) -> str:
    """Wait until cancelled; write what happens into files of the folder."""
    note(folder, "started")
    try:
        await anyio.sleep_forever()
    except BaseException:
        note(folder, "cancelled")
        raise
    return "never"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        app = server.sse_app() if sys.argv[1] == "--sse" else server.streamable_http_app()
        tls: dict[str, Any] = {}
        if "--tls" in sys.argv:
            certificate, key, ca = sys.argv[sys.argv.index("--tls") + 1 :]
            tls = {"ssl_certfile": certificate, "ssl_keyfile": key, "ssl_ca_certs": ca}
            tls["ssl_cert_reqs"] = ssl.CERT_REQUIRED
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), **tls)
    else:
        server.run()
