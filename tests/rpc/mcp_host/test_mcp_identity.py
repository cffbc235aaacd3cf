"""Servers whose tokens are given for what an identity provider says of a person (SEP-990)."""

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from retinue.errors import ComponentNotAllowedError, McpServerUnavailableError
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue.registry.v1 import mcp_server_pb2
from tests.servers.oauth_servers import (
    CLIENT,
    ID_JAG,
    ID_TOKEN,
    JWT_BEARER,
    SECRET,
    TOKEN_EXCHANGE,
    IdentityProvider,
    Protected,
    serve,
    serve_protected,
)

from .hosting import Host, Registry, open_host
from .logging_in import put_login

IDENTITY_SECRET = "s3cret at the provider"


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


@pytest.fixture
async def provider() -> AsyncIterator[IdentityProvider]:
    opened = IdentityProvider()
    async with serve(opened.app()) as opened.url:
        yield opened


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)
    monkeypatch.setenv("IDENTITY_SECRET", IDENTITY_SECRET)
    monkeypatch.setenv("ID_TOKEN", ID_TOKEN)


def put(host: Host, protected: Protected, provider: IdentityProvider, **more: Any) -> int:
    """Store the server, as `web`."""
    given = {
        "grant": mcp_server_pb2.GRANT_TYPE_JWT_BEARER,
        "issuer": protected.authorization.url,
        "client_id": CLIENT,
        "client_secret": "${env:CLIENT_SECRET}",
        "assertion": "${env:ID_TOKEN}",
        "identity_provider": f"{provider.url}/token",
    }
    return put_login(host, protected, **(given | more))


async def hello(host: Host) -> str:
    return (await host.call("web", "hello")).content[0].text


async def test_what_is_said_of_a_person_is_exchanged_for_a_grant_and_that_for_a_token(
    host: Host, protected: Protected, provider: IdentityProvider
) -> None:
    put(host, protected, provider, scopes=["tools.read"])
    assert await hello(host) == "hello"
    assert provider.shown == [""]
    assert provider.forms == [
        {
            "grant_type": TOKEN_EXCHANGE,
            "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag",
            "subject_token": ID_TOKEN,
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "audience": protected.authorization.url,
            "resource": f"{protected.guard.url}/mcp",
            "scope": "tools.read",
        }
    ]
    (form,) = protected.authorization.forms
    assert (form["grant_type"], form["assertion"]) == (JWT_BEARER, ID_JAG)
    assert protected.authorization.shown[0].startswith("Basic ")
    protected.authorization.valid.clear()
    assert await hello(host) == "hello"
    assert len(provider.forms) == 2, "a grant for each token"


async def test_the_host_is_a_client_of_the_identity_provider_where_it_wants_one(
    host: Host, protected: Protected, provider: IdentityProvider
) -> None:
    put(host, protected, provider, identity_client_id="me", identity_client_secret="${env:IDENTITY_SECRET}")
    assert await hello(host) == "hello"
    shown = base64.b64decode(provider.shown[0].removeprefix("Basic ")).decode()
    assert shown == "me:s3cret%20at%20the%20provider"
    put(host, protected, provider, identity_client_id="me")
    assert await hello(host) == "hello"
    assert (provider.shown[-1], provider.forms[-1]["client_id"]) == ("", "me")


async def test_the_token_of_a_person_is_bound_to_a_key_too(
    host: Host, protected: Protected, provider: IdentityProvider
) -> None:
    protected.guard.scheme = "DPoP"
    put(host, protected, provider)
    assert await hello(host) == "hello"
    assert len(protected.authorization.proofs.taken) == 1


async def test_a_refusal_is_a_typed_error_that_shows_no_secret(
    host: Host,
    protected: Protected,
    provider: IdentityProvider,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    more = {"identity_client_id": "me", "identity_client_secret": "${env:IDENTITY_SECRET}"}
    monkeypatch.setenv("ID_TOKEN", "said-long-ago")
    put(host, protected, provider, **more)
    with pytest.raises(
        McpServerUnavailableError, match=r"/token refused, .*400: invalid_grant: Basic"
    ) as one:
        await hello(host)
    assert not protected.authorization.forms
    monkeypatch.setenv("ID_TOKEN", ID_TOKEN)
    monkeypatch.setenv("CLIENT_SECRET", "another secret")
    put(host, protected, provider, **more)
    with pytest.raises(McpServerUnavailableError, match=r"refused, .* 401: invalid_client") as two:
        await hello(host)
    said = str(one.value) + str(two.value) + "".join(capfd.readouterr())
    for part in ("said-long-ago", ID_JAG, IDENTITY_SECRET, provider.shown[0].removeprefix("Basic ")):
        assert part not in said


ANSWERS = [
    Response("no json"),
    JSONResponse([ID_JAG]),
    JSONResponse({"access_token": ID_JAG, "token_type": "N_A"}),
    JSONResponse({"access_token": ID_JAG, "issued_token_type": "urn:ietf:params:oauth:token-type:jwt"}),
    JSONResponse({"access_token": "a\nb", "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag"}),
    JSONResponse({"access_token": 1, "issued_token_type": "urn:ietf:params:oauth:token-type:id-jag"}),
]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_what_is_no_grant_is_shown_to_nobody(
    host: Host, protected: Protected, provider: IdentityProvider, answer: Response
) -> None:
    provider.answer = answer
    put(host, protected, provider)
    with pytest.raises(McpServerUnavailableError, match="answered is no grant for a person"):
        await hello(host)
    assert not protected.authorization.forms


async def test_an_answer_that_is_huge_is_not_read(
    host: Host, protected: Protected, provider: IdentityProvider
) -> None:
    provider.answer = Response("x" * 1_000_000)
    put(host, protected, provider)
    with pytest.raises(McpServerUnavailableError, match="more bytes than a message may have"):
        await hello(host)


async def test_the_secret_at_the_identity_provider_is_checked_like_others(
    host: Host, protected: Protected, provider: IdentityProvider
) -> None:
    put(host, protected, provider, identity_client_id="me", identity_client_secret="${env:NOT_THERE}")
    stub = service_pb2_grpc.McpServerServiceStub(host.channel.channel)
    answer = await stub.CheckSecrets(service_pb2.CheckSecretsRequest(namespace="default"))
    assert [each.field for each in answer.problems] == ["streamable_http.oauth.identity_client_secret"]


async def test_the_identity_provider_of_a_server_by_api_must_be_listed(
    protected: Protected, provider: IdentityProvider, tmp_path: Any
) -> None:
    urls = (protected.guard.url, protected.authorization.url, provider.url)
    guard, issuer, identity = (url.removeprefix("http://") for url in urls)
    names = "CLIENT_*,ID_*"
    async with open_host(Registry(), tmp_path, api_hosts=f"{guard},{issuer}", api_env=names) as host:
        version = put(host, protected, provider)
        host.registry.components["web", version].source.api.SetInParent()
        with pytest.raises(ComponentNotAllowedError, match="RETINUE_API_HOSTS") as caught:
            await hello(host)
        assert caught.value.facts["field"] == "streamable_http.oauth.identity_provider"
        assert not provider.forms
    listed = f"{guard},{issuer},{identity}"
    async with open_host(Registry(), tmp_path, api_hosts=listed, api_env=names) as host:
        version = put(host, protected, provider)
        host.registry.components["web", version].source.api.SetInParent()
        assert await hello(host) == "hello"
