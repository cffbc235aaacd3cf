"""An authorization server and an MCP server that wants its tokens, real ones in the test's own process."""

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import jwt
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

CLIENT, SECRET = "retinue", "s3cret-of-the-client"


class AuthorizationServer:
    """Gives tokens for the grant client_credentials, and notes who asked how."""

    def __init__(self) -> None:
        self.url = ""
        self.forms: list[dict[str, str]] = []
        """Of the requests for a token."""
        self.shown: list[str] = []
        """Their header Authorization."""
        self.methods: list[str] | None = None
        self.life_s: int | None = 3600
        self.public_key = ""
        self.issuer = ""
        """What its metadata says it is; its url where it is empty."""
        self.valid: set[str] = set()
        self.takes_all_back = False
        """Whether no token that it gave is valid."""

    def app(self) -> Starlette:
        """What to serve."""
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    async def _metadata(self, _: Request) -> Response:
        found: dict[str, Any] = {
            "issuer": self.issuer or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "response_types_supported": ["code"],
        }
        if self.methods:
            found["token_endpoint_auth_methods_supported"] = self.methods
        return JSONResponse(found)

    async def _token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        shown = request.headers.get("authorization", "")
        self.forms.append(form)
        self.shown.append(shown)
        if form.get("grant_type") != "client_credentials" or not self._knows(form, shown):
            # As careless as a server can be: it repeats what it was shown.
            error = {"error": "invalid_client", "error_description": f"unknown: {shown} {form}"}
            return JSONResponse(error, 401)
        token = f"token-number-{len(self.forms)}"
        if not self.takes_all_back:
            self.valid.add(token)
        answer = {"access_token": token, "token_type": "bearer"}
        return JSONResponse(answer | ({"expires_in": self.life_s} if self.life_s else {}))

    def _knows(self, form: dict[str, str], shown: str) -> bool:
        if assertion := form.get("client_assertion"):
            claims = jwt.decode(assertion, self.public_key, algorithms=["ES256"], audience=self.url)
            return bool(claims["sub"] == CLIENT)
        if shown:
            return base64.b64decode(shown.removeprefix("Basic ")).decode() == f"{CLIENT}:{SECRET}"
        return form.get("client_secret") == SECRET


class Guard:
    """Lets only requests with a valid token through to an MCP server."""

    def __init__(self, inner: ASGIApp, authorization: AuthorizationServer) -> None:
        self._inner = inner
        self._authorization = authorization
        self.url = ""
        self.scope = ""
        """What a refusal says that is needed; empty where it says nothing."""
        self.insists = False
        """Whether a token that was asked for without the scope is refused, with 403."""
        self.refused = 0
        self.resource = ""
        """What its metadata says it is; its url where it is empty."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
        elif scope["path"] == "/metadata-of-mcp":
            resource = self.resource or f"{self.url}/mcp"
            found = {"resource": resource, "authorization_servers": [self._authorization.url]}
            await JSONResponse(found)(scope, receive, send)
        elif scope["path"].startswith("/.well-known/"):
            await Response(status_code=404)(scope, receive, send)
        elif self._is_allowed(dict(scope["headers"]).get(b"authorization", b"").decode()):
            if self.insists and self.scope not in self._authorization.forms[-1].get("scope", "").split():
                said = f'Bearer error="insufficient_scope", scope="{self.scope}"'
                await Response(status_code=403, headers={"WWW-Authenticate": said})(scope, receive, send)
            else:
                await self._inner(scope, receive, send)
        else:
            self.refused += 1
            wanted = f', scope="{self.scope}"' if self.scope else ""
            said = f'Bearer error="invalid_token", resource_metadata="{self.url}/metadata-of-mcp"{wanted}'
            await Response(status_code=401, headers={"WWW-Authenticate": said})(scope, receive, send)

    def _is_allowed(self, shown: str) -> bool:
        return shown.removeprefix("Bearer ") in self._authorization.valid


class Gate:
    """Where calls of a tool wait for each other."""

    def __init__(self) -> None:
        self.inside = 0
        self.opened = asyncio.Event()


@contextlib.asynccontextmanager
async def serve(app: ASGIApp) -> AsyncIterator[str]:
    """Serve an application on a free port; its address."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1)
        )
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        serving = asyncio.create_task(server.serve([listening]))
        try:
            async with asyncio.timeout(10):
                while not server.started:  # noqa: ASYNC110 - uvicorn sets no event
                    await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class Protected:
    """A running MCP server with its authorization server."""

    def __init__(self) -> None:
        self.authorization = AuthorizationServer()
        self.gate = Gate()
        self.guard: Guard


@contextlib.asynccontextmanager
async def serve_protected(*, sse: bool = False) -> AsyncIterator[Protected]:
    """Serve both. Its tool `meet` ends when so many calls are inside as it is told."""
    protected = Protected()
    server = MCPServer("protected")

    @server.tool()
    async def meet(count: int) -> str:
        """Wait for others."""
        protected.gate.inside += 1
        if protected.gate.inside == count:
            protected.gate.opened.set()
        await protected.gate.opened.wait()
        return "met"

    @server.tool()
    def hello() -> str:
        """Say hello."""
        return "hello"

    # In JSON, so that a call's answer has no head before the tool is done.
    inner = server.sse_app() if sse else server.streamable_http_app(json_response=True)
    protected.guard = Guard(inner, protected.authorization)
    async with serve(protected.authorization.app()) as at, serve(protected.guard) as url:
        protected.authorization.url, protected.guard.url = at, url
        yield protected
