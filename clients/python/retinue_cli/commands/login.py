"""`login` logs a person in to an MCP server, with their browser; `logout` forgets that."""

import asyncio
import ipaddress
import sys
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.servers import ServerName
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.loopback import CALLBACK, Visit, open_loopback

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.mcphost.v1 import login_pb2, server_pb2

_HERE = "127.0.0.1"
_PORT = 7414
"""The same each time, so that a host that registers itself is known at the next login."""


@calling
async def login(
    call: Call,
    server: ServerName,
    *,
    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=1,
            max=65535,
            help="Where to wait for the browser on this machine.",
            show_default=f"{_PORT}, else a free one",
        ),
    ] = None,
    paste: Annotated[
        bool,
        typer.Option("--paste", help="Ask for the address that the browser ends at: it runs elsewhere."),
    ] = False,
) -> None:
    """Log in to an MCP server whose config has the grant authorization_code.

    Prints an address to be opened in a browser, and waits for the browser to come back to this machine. The
    host then acts for you in all calls of this server, whoever makes them.
    """
    async with call.open_client() as client:
        configured = await _configured_redirect(client, server)
        place = _page_of(configured) if configured else (_HERE, port or _PORT, CALLBACK)
        if paste:
            here = f"http://{_HERE}:{port or _PORT}{CALLBACK}"
            done = await _by_hand(call, client, server, configured or here)
        elif place is None:
            raise CommandError(
                f"the server's config sends browsers to {configured}, which is not here: give --paste",
                status=USAGE,
            )
        else:
            any_port = not (configured or port)
            done = await _by_browser(call, client, server, place, any_port=any_port)
    if call.output.as_json:
        call.output.object(done)
    else:
        scopes = f", with the scopes {' '.join(done.login.scopes)}" if done.login.scopes else ""
        call.output.line(f"Logged in to {server} at {done.login.issuer}{scopes}")


@calling
async def logout(call: Call, server: ServerName) -> None:
    """Forget the login to an MCP server, and close its connections; calls under way on it fail."""
    async with call.open_client() as client:
        revoked = await client.servers.logout(server)
    if call.output.as_json:
        call.output.object({"revoked": revoked})
    else:
        kept = "" if revoked else "; no authorization server said that it has taken tokens back"
        call.output.line(f"Logged out of {server}{kept}")


async def _configured_redirect(client: "Client", server: str) -> str:
    """Where the server's config sends browsers; empty where it says nothing."""
    from retinue.registry.v1 import component_pb2

    component = await client.components.get(component_pb2.COMPONENT_KIND_MCP_SERVER, server)
    transport = component.mcp_server.WhichOneof("transport")
    if transport not in ("streamable_http", "sse"):
        return ""
    return str(getattr(component.mcp_server, transport).oauth.redirect_uri)


def _page_of(url: str) -> tuple[str, int, str] | None:
    """Host, port and path of a page that can be served here; None for one elsewhere."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here or parts.scheme != "http" or parts.query:
        return None
    return (f"[{host}]" if ":" in host else host), parts.port or 80, parts.path


async def _by_browser(
    call: Call, client: "Client", server: str, place: tuple[str, int, str], *, any_port: bool
) -> "server_pb2.Server":
    async with open_loopback(*place, any_port=any_port) as page:
        started = await client.servers.start_login(server, page.redirect_uri)
        _show_address(call, started)
        try:
            async with asyncio.timeout(_left_s(started)):
                while True:
                    done = await _finish(client, started.login_id, await page.visit())
                    if done is not None:
                        return done
        except TimeoutError:
            raise CommandError(
                f"nobody has logged in to {server} in time: `retinue login {server}` begins anew"
            ) from None


async def _finish(client: "Client", login_id: str, visit: Visit) -> "server_pb2.Server | None":
    """Tell the host, and the browser what came of it; None for a visit that was not this login's."""
    from retinue.errors import InvalidArgumentError, RetinueError

    try:
        done = await client.servers.finish_login(login_id, visit.url)
    except InvalidArgumentError:
        await visit.show(HTTPStatus.BAD_REQUEST, "This answers no login that waits here.")
        return None
    except RetinueError:
        await visit.show(HTTPStatus.OK, "The login came to nothing; the terminal says why.")
        raise
    await visit.show(HTTPStatus.OK, "You are logged in. You can close this page.")
    return done


async def _by_hand(call: Call, client: "Client", server: str, redirect_uri: str) -> "server_pb2.Server":
    started = await client.servers.start_login(server, redirect_uri)
    _show_address(call, started)
    call.output.note("Paste the address at which the browser ends, even if it cannot open the page:")
    url = (await asyncio.to_thread(sys.stdin.readline)).strip()
    if not url:
        raise CommandError("no address was given: begin anew", status=USAGE)
    return await client.servers.finish_login(started.login_id, url)


def _show_address(call: Call, started: "login_pb2.StartLoginResponse") -> None:
    if call.output.as_json:
        call.output.object(started)
        return
    minutes = round(_left_s(started) / 60)
    call.output.line(f"Open this address in a browser, and log in there within {minutes} minutes:")
    call.output.raw(f"\n{started.authorization_url}\n\n")


def _left_s(started: "login_pb2.StartLoginResponse") -> float:
    return (started.expire_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
