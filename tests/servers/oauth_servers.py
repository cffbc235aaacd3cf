"""An authorization server and an MCP server that wants its tokens, real ones in the test's own process."""

import asyncio
import base64
import contextlib
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

import jwt
import uvicorn
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.servers.dpop_proofs import ProofError, Proofs

CLIENT, SECRET = "retinue", "s3cret-of-the-client"
ID_TOKEN, ID_JAG = "what-is-said-of-ada", "grant-for-ada"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class Code(NamedTuple):
    """What a person has agreed to."""

    client: str
    redirect_uri: str
    challenge: str
    scope: str


class AuthorizationServer:
    """Gives tokens, and notes who asked how. Its people agree to everything at once."""

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
        self.metadata: dict[str, Any] = {}
        """What its metadata has beside."""
        self.scopes: dict[str, str] = {}
        """Of each token."""
        self.registered: list[dict[str, Any]] = []
        """Clients that registered themselves."""
        self.registers = True
        self.asked: list[dict[str, str]] = []
        """The queries with which people came."""
        self.redirects: dict[str, str] = {}
        """What the redirects say in place of what is right; empty values are left out."""
        self.refresh_tokens: dict[str, str] = {}
        """Those that hold, with their scopes; each counts once."""
        self.gives_refresh_tokens = True
        self.revoked: list[str] = []
        self.answer: Response | None = None
        """What the token endpoint answers in place of what is right."""
        self.answers = asyncio.Event()
        """Whether its token endpoint answers what it has taken."""
        self.answers.set()
        self.proofs = Proofs()
        self.bound: dict[str, str] = {}
        """Tokens, refresh tokens too, with the thumbprints of their keys."""
        self.binds = True
        """Whether it knows DPoP."""
        self._codes: dict[str, Code] = {}
        self._signed: set[str] = set()
        """What clients have signed; each counts once."""

    def app(self) -> Starlette:
        """What to serve."""
        return Starlette(
            routes=[
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route("/token", self._token, methods=["POST"]),
                Route("/register", self._register, methods=["POST"]),
                Route("/authorize", self._authorize),
                Route("/revoke", self._revoke, methods=["POST"]),
            ]
        )

    async def _metadata(self, _: Request) -> Response:
        found: dict[str, Any] = {
            "issuer": self.issuer or self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "revocation_endpoint": f"{self.url}/revoke",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        if self.registers:
            found["registration_endpoint"] = f"{self.url}/register"
        if self.methods:
            found["token_endpoint_auth_methods_supported"] = self.methods
        return JSONResponse(found | self.metadata)

    async def _register(self, request: Request) -> Response:
        client = await request.json()
        self.registered.append(client)
        given = {"client_id": f"client-{len(self.registered)}", "client_secret": SECRET}
        given["token_endpoint_auth_method"] = "client_secret_post"
        return JSONResponse(client | given, 201)

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        self.asked.append(query)
        code = f"code-{len(self.asked)}"
        self._codes[code] = Code(
            query["client_id"], query["redirect_uri"], query["code_challenge"], query.get("scope", "")
        )
        said = {"code": code, "state": query["state"], "iss": self.issuer or self.url} | self.redirects
        answer = urlencode({name: value for name, value in said.items() if value})
        return RedirectResponse(f"{query['redirect_uri']}?{answer}")

    async def _revoke(self, request: Request) -> Response:
        token = str((await request.form())["token"])
        self.revoked.append(token)
        self.refresh_tokens.pop(token, None)
        return Response()

    async def _token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        shown = request.headers.get("authorization", "")
        self.forms.append(form)
        self.shown.append(shown)
        if self.answer is not None:
            return self.answer
        if (signed := form.get("client_assertion", "")) in self._signed:
            return JSONResponse({"error": "invalid_client", "error_description": "a replay"}, 401)
        self._signed |= {signed} - {""}
        key = ""
        if self.binds and "dpop" in request.headers:
            try:
                key = self.proofs.check(request.headers.getlist("dpop"), "POST", f"{self.url}/token")
            except ProofError as error:
                return JSONResponse({"error": error.code}, 400, headers=self.proofs.nonce_header())
        if self.bound.get(form.get("refresh_token", ""), key) != key:
            return JSONResponse({"error": "invalid_grant"}, 400)
        scope = self._granted(form, shown)
        await self.answers.wait()
        if scope is None:
            # As careless as a server can be: it repeats what it was shown.
            error = {"error": "invalid_client", "error_description": f"unknown: {shown} {form}"}
            return JSONResponse(error, 400 if form.get("grant_type") == "refresh_token" else 401)
        token = f"token-number-{len(self.forms)}"
        self.scopes[token] = scope
        if not self.takes_all_back:
            self.valid.add(token)
        answer: dict[str, Any] = {"access_token": token, "token_type": "DPoP" if key else "bearer"}
        if form["grant_type"] in ("authorization_code", "refresh_token") and self.gives_refresh_tokens:
            answer["refresh_token"] = f"refresh-number-{len(self.forms)}"
            self.refresh_tokens[answer["refresh_token"]] = scope
        if key:
            self.bound |= dict.fromkeys((token, answer.get("refresh_token", token)), key)
        return JSONResponse(answer | ({"expires_in": self.life_s} if self.life_s else {}))

    def _granted(self, form: dict[str, str], shown: str) -> str | None:
        """The scope that a request is good for; None where it is good for nothing."""
        grant = form.get("grant_type")
        if grant == "refresh_token":
            return self.refresh_tokens.pop(form["refresh_token"], None)
        if grant == "authorization_code":
            code = self._codes.pop(form["code"], None)
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            proof = base64.urlsafe_b64encode(digest).decode().rstrip("=")
            fits = code and (code.challenge, code.redirect_uri) == (proof, form["redirect_uri"])
            return code.scope if code and fits and self._knows(form, shown, code.client) else None
        if grant == JWT_BEARER:
            assertion = form.get("assertion")
            if assertion == ID_JAG:
                return form.get("scope", "") if self._knows(form, shown, CLIENT) else None
            return form.get("scope", "") if assertion == SECRET else None
        known = grant == "client_credentials" and self._knows(form, shown, CLIENT)
        return form.get("scope", "") if known else None

    def _knows(self, form: dict[str, str], shown: str, client: str) -> bool:
        if assertion := form.get("client_assertion"):
            claims = jwt.decode(assertion, self.public_key, algorithms=["ES256"], audience=self.url)
            return bool(claims["sub"] == CLIENT)
        if shown:
            return base64.b64decode(shown.removeprefix("Basic ")).decode() == f"{client}:{SECRET}"
        has_secret = client == CLIENT or client.startswith("client-")
        return form.get("client_id") == client and form.get("client_secret") == (
            SECRET if has_secret else None
        )


class IdentityProvider:
    """Gives a grant for a person, and notes who asked how."""

    def __init__(self) -> None:
        self.url = ""
        self.forms: list[dict[str, str]] = []
        self.shown: list[str] = []
        self.answer: Response | None = None
        """What it answers in place of what is right."""

    def app(self) -> Starlette:
        """What to serve."""
        return Starlette(routes=[Route("/token", self._token, methods=["POST"])])

    async def _token(self, request: Request) -> Response:
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.forms.append(form)
        self.shown.append(request.headers.get("authorization", ""))
        if self.answer is not None:
            return self.answer
        if form.get("subject_token") != ID_TOKEN:
            # As careless as a server can be.
            error = {"error": "invalid_grant", "error_description": f"{self.shown[-1]} {form}"}
            return JSONResponse(error, 400)
        kind = form["requested_token_type"]
        return JSONResponse({"access_token": ID_JAG, "issued_token_type": kind, "token_type": "N_A"})


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
        self.metadata_at = ""
        """Where a refusal says that its metadata is; where it is, where this is empty."""
        self.shown: set[str] = set()
        """The headers Authorization that came."""
        self.issuer = ""
        """Where its metadata sends people; its own authorization server where it is empty."""
        self.resource = ""
        """What its metadata says it is; its url where it is empty."""
        self.metadata: dict[str, Any] = {}
        """What its metadata has beside."""
        self.scheme = "Bearer"
        """What kind of token it takes."""
        self.challenge = ""
        """What kind its refusals say that it takes; the one that it takes where it is empty."""
        self.proofs = Proofs()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
        elif scope["path"] == "/metadata-of-mcp":
            resource = self.resource or f"{self.url}/mcp"
            found = {"resource": resource, "authorization_servers": [self.issuer or self._authorization.url]}
            await JSONResponse(found | self.metadata)(scope, receive, send)
        elif scope["path"].startswith("/.well-known/"):
            await Response(status_code=404)(scope, receive, send)
        elif self._is_allowed(dict(scope["headers"]).get(b"authorization", b"").decode()):
            token = dict(scope["headers"])[b"authorization"].decode().partition(" ")[2]
            if error := self._proof_error(scope, token):
                said = f'DPoP error="{error}"'
                headers = {"WWW-Authenticate": said} | self.proofs.nonce_header()
                await Response(status_code=401, headers=headers)(scope, receive, send)
            elif self.insists and self.scope not in self._authorization.scopes[token].split():
                said = f'{self.scheme} error="insufficient_scope", scope="{self.scope}"'
                await Response(status_code=403, headers={"WWW-Authenticate": said})(scope, receive, send)
            else:
                await self._inner(scope, receive, send)
        else:
            self.refused += 1
            place = f"{self.url}/metadata-of-mcp"
            wanted = f', scope="{self.scope}"' if self.scope else ""
            place = self.metadata_at or place
            scheme = self.challenge or self.scheme
            said = f'{scheme} error="invalid_token", resource_metadata="{place}"{wanted}'
            await Response(status_code=401, headers={"WWW-Authenticate": said})(scope, receive, send)

    def _is_allowed(self, shown: str) -> bool:
        self.shown.add(shown)
        scheme, _, token = shown.partition(" ")
        return scheme == self.scheme and token in self._authorization.valid

    def _proof_error(self, scope: Scope, token: str) -> str:
        """What is wrong with the proof of a token's key; empty where all is well."""
        if self.scheme != "DPoP":
            return ""
        shown = [value.decode() for name, value in scope["headers"] if name == b"dpop"]
        try:
            key = self.proofs.check(shown, scope["method"], f"{self.url}{scope['path']}", token)
        except ProofError as error:
            return error.code
        return "" if self._authorization.bound.get(token) == key else "invalid_token"


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
