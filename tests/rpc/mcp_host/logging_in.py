"""A person who logs in: opens the address, agrees, and is sent on."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2

from retinue.mcphost.v1 import login_pb2, server_pb2
from retinue.registry.v1 import mcp_server_pb2
from tests.servers.oauth_servers import Protected

from .hosting import Host

REDIRECT_URI = "http://127.0.0.1:49152/callback"


def put_login(host: Host, protected: Protected, name: str = "web", **oauth: Any) -> int:
    """Store the server, with a person's login."""
    return host.registry.put(
        name, mcp_server_pb2.McpServerSpec(streamable_http=transport_of(protected, **oauth))
    )


def transport_of(protected: Protected, **oauth: Any) -> mcp_server_pb2.StreamableHttpTransport:
    """Where the server is, and how one logs in."""
    transport = mcp_server_pb2.StreamableHttpTransport(url=f"{protected.guard.url}/mcp")
    given = {"grant": mcp_server_pb2.GRANT_TYPE_AUTHORIZATION_CODE} | oauth
    transport.oauth.CopyFrom(mcp_server_pb2.OAuthSettings(**given))
    return transport


async def open_page(authorization_url: str) -> str:
    """Open the address and agree; where the browser is sent."""
    async with httpx2.AsyncClient() as browser:
        answer = await browser.get(authorization_url)
    assert answer.status_code in (302, 307), answer.text
    return answer.headers["location"]


async def start(
    host: Host, name: str = "web", redirect_uri: str = REDIRECT_URI
) -> login_pb2.StartLoginResponse:
    """Begin a login."""
    return await host.servers.start_login(name, redirect_uri)


async def log_in(host: Host, name: str = "web", redirect_uri: str = REDIRECT_URI) -> server_pb2.Server:
    """Log in."""
    started = await start(host, name, redirect_uri)
    return await host.servers.finish_login(started.login_id, await open_page(started.authorization_url))


def query_of(url: str) -> dict[str, str]:
    """The query of an address."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
