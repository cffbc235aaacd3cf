"""Servers to which a person logs in: how a login is made, used, renewed, added to and ended."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import Response

from retinue.errors import (
    ComponentNotAllowedError,
    InvalidArgumentError,
    McpLoginRequiredError,
    McpRequestRefusedError,
    McpServerUnavailableError,
)
from retinue.mcphost.v1 import resource_pb2, server_pb2
from retinue.registry.v1 import mcp_server_pb2
from tests.servers.oauth_servers import CLIENT, SECRET, Protected, serve_protected

from .hosting import Host, Registry, open_host, until, until_awaited
from .logging_in import REDIRECT_URI, log_in, open_page, put_login, query_of, start, transport_of


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)


async def hello(host: Host) -> str:
    return (await host.call("web", "hello")).content[0].text


async def test_a_call_says_who_must_log_in_and_works_once_somebody_has(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    with pytest.raises(McpLoginRequiredError, match=r"wants a login: run `retinue login web`") as caught:
        await hello(host)
    assert caught.value.facts == {"server": "web", "namespace": "default"}
    server = await log_in(host)
    assert server.login.state == server_pb2.LOGIN_STATE_LOGGED_IN
    assert server.login.issuer == protected.authorization.url
    assert await hello(host) == "hello"
    (asked,) = protected.authorization.asked
    assert asked["resource"] == f"{protected.guard.url}/mcp"
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == REDIRECT_URI


async def test_a_server_that_wants_a_login_is_not_asked_again_by_calls(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    with pytest.raises(McpLoginRequiredError):
        await hello(host)
    refused = protected.guard.refused
    outcomes = await asyncio.gather(*(hello(host) for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in outcomes} == {McpLoginRequiredError}
    assert protected.guard.refused == refused
    server = await host.servers.get("web")
    assert server.connections[0].failures == 0, "waiting does not mend it, and no breaker opens"


async def test_a_person_may_log_in_before_anybody_calls(host: Host, protected: Protected) -> None:
    protected.guard.scope = "tools.read"
    put_login(host, protected)
    assert (await host.servers.get("web")).login.state == server_pb2.LOGIN_STATE_LOGGED_OUT
    await log_in(host)
    assert protected.authorization.asked[0]["scope"] == "tools.read", "the server was asked what it wants"
    refused = protected.guard.refused
    assert await hello(host) == "hello"
    assert protected.guard.refused == refused


async def test_watchers_of_a_server_see_its_login(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await host.registry.tell()
    states: list[int] = []

    async def watch() -> None:
        async for change in host.servers.watch(["web"]):
            states.extend(each.login.state for each in change.servers)

    watching = asyncio.create_task(watch())
    await until(lambda: states, "the server as it is")
    with pytest.raises(McpLoginRequiredError):
        await hello(host)
    await until(lambda: server_pb2.LOGIN_STATE_REQUIRED in states, "that it wants a login")
    await log_in(host)
    await until(lambda: states[-1] == server_pb2.LOGIN_STATE_LOGGED_IN, "that somebody has logged in")
    await host.servers.logout("web")
    await until(lambda: states[-1] == server_pb2.LOGIN_STATE_LOGGED_OUT, "that it is forgotten")
    watching.cancel()


async def test_all_connections_of_a_server_share_one_login(host: Host, protected: Protected) -> None:
    host.registry.put(
        "web",
        mcp_server_pb2.McpServerSpec(
            streamable_http=transport_of(protected), scope=mcp_server_pb2.SERVER_SCOPE_SESSION
        ),
    )
    await log_in(host)
    for session in ("a", "b"):
        await host.call("web", "hello", scope=resource_pb2.CallerScope(session_id=session))
    assert len((await host.servers.get("web")).connections) == 2
    assert len(protected.authorization.forms) == 1


async def test_a_token_that_the_server_refuses_is_renewed_once_for_all(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    await log_in(host)
    await hello(host)
    protected.authorization.valid.clear()
    protected.authorization.answers.clear()
    protected.guard.refused = 0
    calls = [asyncio.create_task(hello(host)) for _ in range(20)]
    await until(lambda: protected.guard.refused == 20, "all are refused")
    protected.authorization.answers.set()
    assert set(await asyncio.gather(*calls)) == {"hello"}
    refreshes = [form for form in protected.authorization.forms if form["grant_type"] == "refresh_token"]
    assert len(refreshes) == 1
    assert refreshes[0]["resource"] == f"{protected.guard.url}/mcp"
    assert refreshes[0]["client_secret"] == SECRET, "that of the client which registered itself"
    protected.authorization.valid.clear()
    assert await hello(host) == "hello", "the refresh token that came with it counts now"


async def test_a_token_that_expires_is_renewed_before_the_server_refuses_it(
    host: Host, protected: Protected
) -> None:
    protected.authorization.life_s = 1
    put_login(host, protected)
    await log_in(host)
    refused = protected.guard.refused

    async def is_renewed() -> bool:
        await hello(host)
        return len(protected.authorization.forms) > 2

    await until_awaited(is_renewed, "two more tokens")
    assert protected.guard.refused == refused


async def test_a_login_that_was_revoked_is_wanted_again(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await log_in(host)
    await hello(host)
    protected.authorization.valid.clear()
    protected.authorization.refresh_tokens.clear()
    with pytest.raises(McpLoginRequiredError):
        await hello(host)
    assert (await host.servers.get("web")).login.state == server_pb2.LOGIN_STATE_REQUIRED
    await log_in(host)
    assert await hello(host) == "hello"
    assert len(protected.authorization.registered) == 1, "the client is known already"


async def test_a_login_without_a_refresh_token_lasts_as_long_as_its_token(
    host: Host, protected: Protected
) -> None:
    protected.authorization.gives_refresh_tokens = False
    put_login(host, protected)
    await log_in(host)
    await hello(host)
    protected.authorization.valid.clear()
    with pytest.raises(McpLoginRequiredError):
        await hello(host)


async def test_an_authorization_server_that_is_away_ends_no_login(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await log_in(host)
    await hello(host)
    protected.authorization.valid.clear()
    protected.authorization.answer = Response(status_code=503)
    with pytest.raises(McpServerUnavailableError, match=r"could not be renewed: .* HTTP status 503"):
        await hello(host)
    protected.authorization.answer = None
    assert (await host.servers.get("web")).login.state == server_pb2.LOGIN_STATE_LOGGED_IN


async def test_a_call_that_lacks_a_scope_fails_alone_and_a_login_adds_it(
    host: Host, protected: Protected
) -> None:
    protected.guard.scope = "tools.read"
    put_login(host, protected)
    await log_in(host)
    waiting = asyncio.create_task(host.call("web", "meet", '{"count": 2}'))
    await until(lambda: protected.gate.inside, "a call is under way")
    protected.guard.scope, protected.guard.insists = "tools.write", True
    with pytest.raises(McpLoginRequiredError, match=r"that grants more: tools\.write: run") as caught:
        await hello(host)
    assert caught.value.facts["missing_scopes"] == "tools.write"
    login = (await host.servers.get("web")).login
    assert (login.state, list(login.missing_scopes)) == (server_pb2.LOGIN_STATE_REQUIRED, ["tools.write"])
    assert list(login.scopes) == ["tools.read"]
    await log_in(host)
    assert protected.authorization.asked[-1]["scope"] == "tools.read tools.write"
    assert await hello(host) == "hello"
    await host.call("web", "meet", '{"count": 2}')
    assert (await waiting).content[0].text == "met", "the other call has not noticed"


async def test_configured_scopes_are_all_that_is_asked_for(host: Host, protected: Protected) -> None:
    protected.guard.scope = "tools.all"
    put_login(host, protected, scopes=["tools.read"])
    await log_in(host)
    assert protected.authorization.asked[0]["scope"] == "tools.read"
    assert protected.authorization.registered[0]["scope"] == "tools.read"
    protected.guard.insists = True
    with pytest.raises(McpRequestRefusedError, match="HTTP status 403"):
        await hello(host)


async def test_a_client_of_the_config_shows_its_secret_and_registers_nowhere(
    host: Host, protected: Protected
) -> None:
    for methods, shown in ((None, "Basic "), (["client_secret_post"], "")):
        protected.authorization.methods = methods
        put_login(
            host,
            protected,
            issuer=protected.authorization.url,
            client_id=CLIENT,
            client_secret="${env:CLIENT_SECRET}",
            scopes=["a" if methods else "b"],
        )
        await log_in(host)
        assert await hello(host) == "hello"
        assert protected.authorization.shown[-1].startswith(shown)
        protected.authorization.valid.clear()
        assert await hello(host) == "hello", "renewed with the same secret"
        assert bool(protected.authorization.shown[-1]) is bool(shown)
    assert not protected.authorization.registered


async def test_a_client_may_be_known_by_a_document(host: Host, protected: Protected) -> None:
    protected.authorization.metadata = {"client_id_metadata_document_supported": True}
    document = "https://retinue.example.com/client.json"
    put_login(host, protected, client_metadata_url=document)
    await log_in(host)
    assert await hello(host) == "hello"
    assert protected.authorization.asked[0]["client_id"] == document
    assert not protected.authorization.registered
    protected.authorization.metadata = {}
    await log_in(host)
    assert protected.authorization.asked[1]["client_id"] == "client-1", "it takes no documents: registered"


async def test_another_address_for_the_browser_or_issuer_needs_another_registration(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    await log_in(host)
    await log_in(host, redirect_uri="http://127.0.0.1:49153/")
    assert [each["redirect_uris"] for each in protected.authorization.registered] == [
        [REDIRECT_URI],
        ["http://127.0.0.1:49153/"],
    ]
    async with serve_protected() as other:
        protected.guard.issuer = other.authorization.url
        protected.authorization.valid.clear()
        protected.authorization.refresh_tokens.clear()
        with pytest.raises(McpLoginRequiredError):
            await hello(host)
        await log_in(host, redirect_uri="http://127.0.0.1:49153/")
        assert len(other.authorization.registered) == 1
        assert other.authorization.asked[0]["client_id"] == "client-1"


async def test_what_was_granted_for_one_config_goes_nowhere_else(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await log_in(host)
    await hello(host)
    async with serve_protected() as other:
        put_login(host, other)
        with pytest.raises(McpLoginRequiredError):
            await hello(host)
        assert other.guard.shown == {""}
    put_login(host, protected)
    assert await hello(host) == "hello", "as before"


async def test_a_logout_takes_the_tokens_back_and_ends_the_connections(
    host: Host, protected: Protected
) -> None:
    version = put_login(host, protected)
    await log_in(host)
    await hello(host)
    (held,) = protected.authorization.refresh_tokens
    assert await host.servers.logout("web")
    assert protected.authorization.revoked == [held]

    async def is_closed() -> bool:
        (connection,) = (await host.servers.get("web")).connections
        return connection.state == server_pb2.CONNECTION_STATE_CLOSED

    await until_awaited(is_closed, "nothing of it is left")
    protected.authorization.valid.clear()
    with pytest.raises(McpLoginRequiredError):
        await hello(host)
    assert not await host.servers.logout("web"), "nobody had logged in"
    await log_in(host)
    del host.registry.components["web", version]
    assert not await host.servers.logout("web"), "where it was deleted nobody knows the rules any more"
    assert not await host.servers.logout("never-there")


async def test_the_older_transport_has_logins_too(host: Host) -> None:
    async with serve_protected(sse=True) as protected:
        protected.guard.resource = f"{protected.guard.url}/sse"
        transport = mcp_server_pb2.SseTransport(url=f"{protected.guard.url}/sse")
        transport.oauth.grant = mcp_server_pb2.GRANT_TYPE_AUTHORIZATION_CODE
        host.registry.put("web", mcp_server_pb2.McpServerSpec(sse=transport))
        with pytest.raises(McpLoginRequiredError):
            await hello(host)
        await log_in(host)
        assert await hello(host) == "hello"
        protected.authorization.valid.clear()
        protected.authorization.refresh_tokens.clear()
        with pytest.raises(McpLoginRequiredError):
            await hello(host)
        await host.servers.logout("web")


async def test_a_server_whose_config_has_no_login_is_told_what_it_needs(
    host: Host, protected: Protected
) -> None:
    host.http("web", f"{protected.guard.url}/mcp")
    with pytest.raises(McpRequestRefusedError, match="401: it wants a token; give its config oauth"):
        await hello(host)
    with pytest.raises(InvalidArgumentError, match="set grant: authorization_code in its oauth"):
        await start(host)
    assert not (await host.servers.get("web")).HasField("login")


async def test_a_platform_says_who_the_host_is(host: Host, protected: Protected, tmp_path: Any) -> None:
    path = tmp_path / "token"
    path.write_text("expired")
    transport = mcp_server_pb2.StreamableHttpTransport(url=f"{protected.guard.url}/mcp")
    transport.oauth.grant = mcp_server_pb2.GRANT_TYPE_JWT_BEARER
    transport.oauth.issuer = protected.authorization.url
    transport.oauth.client_id = "workload"
    transport.oauth.assertion = f"${{file:{path}}}"
    host.registry.put("web", mcp_server_pb2.McpServerSpec(streamable_http=transport))
    with pytest.raises(McpServerUnavailableError, match="invalid_client") as caught:
        await hello(host)
    assert "expired" not in str(caught.value)
    path.write_text(SECRET)
    assert await hello(host) == "hello"
    form = protected.authorization.forms[-1]
    assert (form["client_id"], form["assertion"]) == ("workload", SECRET)
    path.unlink()
    protected.authorization.valid.clear()
    with pytest.raises(McpServerUnavailableError, match="has no OAuth token"):
        await hello(host)
    path.write_text(SECRET)
    transport.oauth.client_id = ""
    host.registry.put("web", mcp_server_pb2.McpServerSpec(streamable_http=transport))
    assert await hello(host) == "hello"
    assert "client_id" not in protected.authorization.forms[-1], "the statement says it"


async def test_where_a_server_by_api_sends_people_must_be_listed(protected: Protected, tmp_path: Any) -> None:
    listed = protected.guard.url.removeprefix("http://")
    async with open_host(Registry(), tmp_path, api_hosts=listed) as host:
        version = put_login(host, protected)
        host.registry.components["web", version].source.api.SetInParent()
        with pytest.raises(ComponentNotAllowedError) as caught:
            await start(host)
        assert caught.value.facts["setting"] == "RETINUE_API_HOSTS"
    assert not protected.authorization.registered
    both = f"{listed},{protected.authorization.url.removeprefix('http://')}"
    async with open_host(Registry(), tmp_path, api_hosts=both) as host:
        version = put_login(host, protected)
        host.registry.components["web", version].source.api.SetInParent()
        await log_in(host)
        assert await hello(host) == "hello"


async def test_no_secret_of_a_login_is_shown_or_logged(
    host: Host, protected: Protected, capfd: pytest.CaptureFixture[str]
) -> None:
    put_login(host, protected)
    started = await start(host)
    sent_on = await open_page(started.authorization_url)
    shown = str(await host.servers.finish_login(started.login_id, sent_on))
    await hello(host)
    protected.authorization.valid.clear()
    await hello(host)
    await host.servers.logout("web")
    shown += "".join(capfd.readouterr())
    hidden = [query_of(sent_on)["code"], SECRET, *protected.authorization.scopes]
    hidden += protected.authorization.revoked
    hidden += [form["code_verifier"] for form in protected.authorization.forms if "code_verifier" in form]
    for each in hidden:
        assert each not in shown
