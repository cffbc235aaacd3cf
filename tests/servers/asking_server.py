"""A real MCP server, made with the SDK, that asks its client in the middle of tool calls.

stdio by default, streamable HTTP with `--http PORT`; `--modern` refuses the handshake, so that clients use
the revision in which results ask.
"""

import json
import sys
import warnings
from typing import Annotated, Any

import anyio
import uvicorn
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, MCPServer, Resolve, Sample
from mcp.shared.exceptions import MCPError
from mcp_types import CreateMessageResult, SamplingMessage, TextContent
from pydantic import BaseModel

warnings.simplefilter("ignore")  # sampling and roots are deprecated in the newest revision

server = MCPServer("asking-server")


class Colour(BaseModel):
    """What people are asked for."""

    colour: str
    shade: int = 0


def said(answer: Any) -> str:
    """An answer as a text."""
    return f"accept {answer.data.colour}" if answer.action == "accept" else str(answer.action)


def message(text: str) -> SamplingMessage:
    """A message of a user."""
    return SamplingMessage(role="user", content=TextContent(type="text", text=text))


@server.tool()
async def elicit(question: str, ctx: Context) -> str:
    """Ask a person."""
    return said(await ctx.elicit(question, Colour))


@server.tool()
async def elicit_aside(question: str, ctx: Context) -> str:
    """Ask a person, and do not say in which call."""
    answer = await ctx.session.elicit_form(question, {"type": "object", "properties": {}})
    return str(answer.action)


@server.tool()
async def elicit_and_hang(question: str, ctx: Context) -> str:
    """Ask a person and never end."""
    await ctx.elicit(question, Colour)
    await anyio.sleep_forever()
    return "never"


@server.tool()
async def sample(prompt: str, ctx: Context) -> str:
    """Ask a model."""
    try:
        result = await ctx.session.create_message(
            [message(prompt)], max_tokens=10, related_request_id=ctx.request_id
        )
    except MCPError as refused:
        return f"refused: {refused.message}"
    return f"{result.model}: {result.content.text}"


@server.tool()
async def roots(ctx: Context) -> int:
    """Count the roots."""
    return len((await ctx.session.list_roots()).roots)


@server.tool()
def offered(ctx: Context) -> str:
    """What the client says that it can be asked."""
    capabilities = ctx.client_capabilities
    return json.dumps(capabilities.model_dump(by_alias=True, exclude_none=True) if capabilities else None)


async def ask_colour() -> Elicit[Colour]:
    """The question of `choose`."""
    return Elicit("Which colour?", Colour)


async def ask_name() -> Sample:
    """The prompt of `choose`."""
    return Sample([message("Name a colour")], max_tokens=10)


@server.tool()
async def choose(
    colour: Annotated[ElicitationResult[Colour], Resolve(ask_colour)],
) -> str:
    """Ask a person, by a result where the revision has that."""
    return said(colour)


@server.tool()
async def choose_name(name: Annotated[CreateMessageResult, Resolve(ask_name)]) -> str:
    """Ask a model, by a result where the revision has that."""
    return f"{name.model}: {getattr(name.content, 'text', '')}"


class Modern:
    """Refuses the handshake with the words of a server that is too new for it."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await receive()
        request = json.loads(body["body"])
        if request.get("method") != "initialize":
            waiting = [body]

            async def again() -> Any:
                return waiting.pop() if waiting else await receive()

            await self._app(scope, again, send)
            return
        error = {"code": -32022, "message": "too old", "data": {"supported": ["2026-07-28"]}}
        answer = json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    if "--http" in sys.argv:
        app: Any = server.streamable_http_app()
        if "--modern" in sys.argv:
            app = Modern(app)
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[sys.argv.index("--http") + 1]))
    else:
        server.run()
