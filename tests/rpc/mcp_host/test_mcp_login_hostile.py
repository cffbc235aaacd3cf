"""Logins that go wrong: by servers, authorization servers and strangers that want to."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import JSONResponse, RedirectResponse, Response

from retinue.errors import (
    InvalidArgumentError,
    McpLoginFailedError,
    McpLoginNotFoundError,
    McpLoginRequiredError,
    McpServerUnavailableError,
)
from retinue.mcphost.v1 import server_pb2
from retinue.registry.v1 import mcp_server_pb2
from retinue_mcp_host.logins import flows
from tests.servers.oauth_servers import SECRET, Protected, serve_protected

from .hosting import Host, until, until_awaited
from .logging_in import REDIRECT_URI, log_in, open_page, put_login, query_of, start


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


async def refused_with(host: Host, match: str) -> None:
    """Log in, in vain."""
    with pytest.raises(McpLoginFailedError, match=match):
        await log_in(host)
    with pytest.raises(McpLoginRequiredError):
        await host.call("web", "hello")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda url: url.replace("state=", "state=x"), "has another state"),
        (lambda url: url.replace("state=", "no_state="), "has another state"),
        (lambda url: f"{url}&state=twice", "says something twice"),
        (lambda url: f"{url}&code=twice", "says something twice"),
        (lambda url: url.replace("code=", "no_code="), "has no code"),
        (lambda url: url.replace("127.0.0.1", "evil.example.com"), "does not begin with"),
        (lambda url: url.replace("49152", "49153"), "does not begin with"),
        (lambda url: url.replace("http://", "https://"), "does not begin with"),
        (lambda url: url.replace("/callback", "/callback/deeper"), "does not begin with"),
        (lambda url: url.replace("127.0.0.1", "[::1"), "is no address"),
        (lambda _: "", "does not begin with"),
        (lambda url: f"{url}&more={'x' * 20_000}", "more than 16384 characters"),
        (lambda url: url + "&a=b" * 200, "is no address"),
    ],
)
async def test_an_address_that_answers_no_login_leaves_it_open(
    host: Host, protected: Protected, change: Any, match: str
) -> None:
    put_login(host, protected)
    started = await start(host)
    sent_on = await open_page(started.authorization_url)
    with pytest.raises(InvalidArgumentError, match=match) as caught:
        await host.servers.finish_login(started.login_id, change(sent_on))
    assert query_of(sent_on)["code"] not in str(caught.value)
    assert not protected.authorization.forms
    await host.servers.finish_login(started.login_id, sent_on)


@pytest.mark.parametrize(
    ("redirect_uri", "match"),
    [
        ("", "is empty"),
        ("https://evil.example.com/callback", "must be http:// with 127"),
        ("http://127.0.0.1.evil.example.com/", "must be http:// with 127"),
        ("http://127.0.0.1@evil.example.com/", "must be http:// with 127"),
        ("http://evil@127.0.0.1/", "must be http:// with 127"),
        ("http://127.0.0.1:99999/", "must be http:// with 127"),
        ("http://127.0.0.1:1/?state=mine", "must be http:// with 127"),
        ("http://127.0.0.1:1/#mine", "must be http:// with 127"),
        ("javascript:alert(1)", "must be http:// with 127"),
        (f"http://127.0.0.1/{'x' * 20_000}", "must be http:// with 127"),
    ],
)
async def test_browsers_are_sent_to_the_persons_own_machine_alone(
    host: Host, protected: Protected, redirect_uri: str, match: str
) -> None:
    put_login(host, protected)
    with pytest.raises(InvalidArgumentError, match=match):
        await start(host, redirect_uri=redirect_uri)
    assert not protected.authorization.registered


async def test_the_configs_own_address_counts_where_it_has_one(host: Host, protected: Protected) -> None:
    own = "https://retinue.example.com/callback"
    put_login(host, protected, redirect_uri=own)
    with pytest.raises(InvalidArgumentError, match="another than the one in the server's config"):
        await start(host)
    assert (await start(host, redirect_uri="")).redirect_uri == own
    assert protected.authorization.registered[0]["redirect_uris"] == [own]
    assert protected.authorization.registered[0]["application_type"] == "web"


@pytest.mark.parametrize(
    ("iss", "match"),
    [
        ("https://evil.example.com", "iss mismatch"),
        ("", "missing iss"),
    ],
)
async def test_a_code_of_another_issuer_goes_nowhere(
    host: Host, protected: Protected, iss: str, match: str
) -> None:
    protected.authorization.redirects = {"iss": iss}
    put_login(host, protected)
    await refused_with(host, match)
    assert not protected.authorization.forms


async def test_a_person_may_say_no(host: Host, protected: Protected) -> None:
    protected.authorization.redirects = {"code": "", "error": "access_denied", "error_description": "no!"}
    put_login(host, protected)
    await refused_with(host, "access_denied: no!")


async def test_a_login_is_finished_once_and_a_code_counts_once(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    started = await start(host)
    sent_on = await open_page(started.authorization_url)
    finishing = (host.servers.finish_login(started.login_id, sent_on) for _ in range(2))
    outcomes = await asyncio.gather(*finishing, return_exceptions=True)
    assert {type(each) for each in outcomes} == {server_pb2.Server, McpLoginNotFoundError}
    again = await start(host)
    replayed = sent_on.replace(query_of(sent_on)["state"], query_of(again.authorization_url)["state"])
    with pytest.raises(McpLoginFailedError, match="refused, with HTTP status 401") as caught:
        await host.servers.finish_login(again.login_id, replayed)
    assert "***" in str(caught.value)
    for hidden in (query_of(sent_on)["code"], SECRET, protected.authorization.forms[-1]["code_verifier"]):
        assert hidden not in str(caught.value)
    assert (await host.call("web", "hello")).content[0].text == "hello", "the login that stands goes on"


async def test_of_two_logins_at_once_each_is_finished_by_its_own_address(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    first, second = await start(host), await start(host)
    sent_first = await open_page(first.authorization_url)
    sent_second = await open_page(second.authorization_url)
    with pytest.raises(InvalidArgumentError, match="another login"):
        await host.servers.finish_login(first.login_id, sent_second)
    await host.servers.finish_login(second.login_id, sent_second)
    await host.servers.finish_login(first.login_id, sent_first)
    assert (await host.call("web", "hello")).content[0].text == "hello"


async def test_a_login_that_nobody_finishes_is_forgotten(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_login(host, protected)
    monkeypatch.setattr(flows, "MAX_UNDER_WAY", 2)
    first, second, third = await start(host), await start(host), await start(host)
    with pytest.raises(McpLoginNotFoundError):
        await host.servers.finish_login(first.login_id, await open_page(first.authorization_url))
    await host.servers.finish_login(second.login_id, await open_page(second.authorization_url))
    await host.servers.finish_login(third.login_id, await open_page(third.authorization_url))
    monkeypatch.setattr(flows, "LOGIN_S", 0.0)
    late = await start(host)
    with pytest.raises(McpLoginNotFoundError, match="begin anew"):
        await host.servers.finish_login(late.login_id, await open_page(late.authorization_url))
    with pytest.raises(McpLoginNotFoundError):
        await host.servers.finish_login("login-of-nobody", REDIRECT_URI)


GARBAGE = [
    (Response(b"\xff\xfe", media_type="application/json"), "is no token"),
    (JSONResponse({"access_token": "a\nb", "token_type": "bearer"}), "is no token"),
    (JSONResponse({"access_token": "", "token_type": "bearer"}), "is no token"),
    (JSONResponse({"access_token": "a", "token_type": "mac"}), "is no token"),
    (JSONResponse(["token"]), "is no token"),
    (JSONResponse({"access_token": "x" * 100_000, "token_type": "bearer"}), "more bytes than"),
    (Response(b"no", 500), "HTTP status 500"),
    (RedirectResponse("https://evil.example.com/token", 307), "HTTP status 307"),
]


@pytest.mark.parametrize(("answer", "match"), GARBAGE)
async def test_an_authorization_server_that_answers_garbage_gives_no_token(
    host: Host, protected: Protected, answer: Response, match: str
) -> None:
    put_login(host, protected)
    protected.authorization.answer = answer
    await refused_with(host, match)


@pytest.mark.parametrize(("answer", "_match"), GARBAGE)
async def test_a_login_outlasts_garbage_when_it_is_renewed(
    host: Host, protected: Protected, answer: Response, _match: str
) -> None:
    put_login(host, protected)
    await log_in(host)
    protected.authorization.valid.clear()
    protected.authorization.answer = answer
    if b'"mac"' in answer.body:
        return  # another kind of token is one all the same, as far as a renewal goes
    with pytest.raises(McpServerUnavailableError, match="could not be renewed"):
        await host.call("web", "hello")
    assert (await host.servers.get("web")).login.state == server_pb2.LOGIN_STATE_LOGGED_IN


async def test_an_authorization_server_that_never_answers_is_given_up(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_login(host, protected)
    started = await start(host)
    sent_on = await open_page(started.authorization_url)
    protected.authorization.answers.clear()
    monkeypatch.setattr(flows, "STEP_S", 0.2)
    with pytest.raises(McpLoginFailedError, match=r"did not answer in 0\.2 s"):
        await host.servers.finish_login(started.login_id, sent_on)
    protected.authorization.answers.set()


async def test_a_renewal_goes_on_when_its_connection_ends(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await log_in(host)
    await host.call("web", "hello")
    protected.authorization.valid.clear()
    protected.authorization.answers.clear()
    calling = asyncio.create_task(host.call("web", "hello"))
    await until(lambda: not protected.authorization.refresh_tokens, "the refresh token is used up")
    restarting = asyncio.create_task(host.servers.restart("web"))
    with pytest.raises(McpServerUnavailableError):
        await calling

    async def is_next() -> bool:
        (connection,) = (await host.servers.get("web")).connections
        return connection.state == server_pb2.CONNECTION_STATE_CONNECTING

    await until_awaited(is_next, "nothing is left of the connection that began it")
    protected.authorization.answers.set()
    await restarting
    assert (await host.call("web", "hello")).content[0].text == "hello"


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"code_challenge_methods_supported": None}, "PKCE"),
        ({"authorization_endpoint": "http://evil.example.com/authorize"}, "without TLS"),
        ({"token_endpoint": "http://evil.example.com/token"}, "without TLS"),
        ({"registration_endpoint": "http://evil.example.com/register"}, "without TLS"),
        ({"issuer": "https://evil.example.com"}, "mismatch"),
        ({"more": "x" * 100_000}, "more bytes than"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "came to nothing"),
    ],
)
async def test_metadata_that_leads_astray_is_not_followed(
    host: Host, protected: Protected, metadata: dict[str, Any], match: str
) -> None:
    protected.authorization.metadata = metadata
    put_login(host, protected)
    await refused_with(host, match)
    assert not [form for form in protected.authorization.forms if "code" in form]


@pytest.mark.parametrize(
    "place",
    [
        "https://[::1",
        "http://127.0.0.1:99999/",
        "http://xn--/",
        "https://a b:c/",
        "nowhere",
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data",
        "https://metadata.example.com/",
    ],
)
@pytest.mark.parametrize("grant", ["authorization_code", "client_credentials"])
async def test_a_server_that_names_another_place_for_its_metadata_has_nothing_asked_there(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch, place: str, grant: str
) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    protected.guard.metadata_at = place
    if grant == "authorization_code":
        put_login(host, protected)
        await refused_with(host, "came to nothing")
    else:
        put_login(
            host,
            protected,
            issuer=protected.authorization.url,
            client_id="retinue",
            client_secret="${env:CLIENT_SECRET}",
            grant=mcp_server_pb2.GRANT_TYPE_CLIENT_CREDENTIALS,
        )
        with pytest.raises(McpServerUnavailableError, match="has no OAuth token"):
            await host.call("web", "hello")
    assert not protected.authorization.forms


async def test_an_authorization_server_that_registers_nobody_needs_a_client_of_the_config(
    host: Host, protected: Protected
) -> None:
    protected.authorization.registers = False
    put_login(host, protected)
    await refused_with(host, "set client_id or client_metadata_url")


async def test_people_are_sent_to_no_other_issuer_than_the_configured_one(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected, issuer="https://login.example.com")
    await refused_with(host, "not the configured issuer https://login.example.com")
    assert not protected.authorization.registered


async def test_a_wrong_secret_is_told_without_it(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = "a/wrong secret"
    monkeypatch.setenv("CLIENT_SECRET", wrong)
    for methods in (None, ["client_secret_post"]):
        protected.authorization.methods = methods
        put_login(
            host,
            protected,
            issuer=protected.authorization.url,
            client_id="retinue",
            client_secret="${env:CLIENT_SECRET}",
        )
        with pytest.raises(McpLoginFailedError, match="invalid_client") as caught:
            await log_in(host)
        said = str(caught.value) + str(caught.value.facts) + "".join(capfd.readouterr())
        assert "***" in said
        shown = protected.authorization.shown[-1].removeprefix("Basic ")
        for part in (wrong, "a%2Fwrong%20secret", *([shown] if shown else [])):
            assert part not in said


async def test_a_logout_forgets_also_where_nobody_can_take_the_tokens_back(
    host: Host, protected: Protected
) -> None:
    for metadata in ({"revocation_endpoint": "http://127.0.0.1:1/"}, {"revocation_endpoint": None}):
        protected.authorization.metadata = metadata
        put_login(host, protected)
        await log_in(host)
        assert not await host.servers.logout("web")
        with pytest.raises(McpLoginRequiredError):
            await host.call("web", "hello")


async def test_a_server_that_is_away_starts_no_login(host: Host, protected: Protected) -> None:
    protected.guard.url = "http://127.0.0.1:1"
    put_login(host, protected)
    with pytest.raises(McpServerUnavailableError, match="cannot be reached"):
        await start(host)
