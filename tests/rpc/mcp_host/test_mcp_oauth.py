"""Servers that want OAuth tokens, which the host gets as itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from retinue.errors import (
    ComponentNotAllowedError,
    McpRequestRefusedError,
    McpServerUnavailableError,
    SecretNotFoundError,
)
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue.registry.v1 import mcp_server_pb2
from tests.servers.oauth_servers import CLIENT, SECRET, Protected, serve_protected

from .hosting import Host, Registry, open_host, until, until_awaited


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        yield opened


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)


def put(host: Host, protected: Protected, **more: Any) -> None:
    """Store the server, as `web`."""
    given = {"issuer": protected.authorization.url, "client_id": CLIENT} | more
    if "private_key" not in given:
        given.setdefault("client_secret", "${env:CLIENT_SECRET}")
    transport = mcp_server_pb2.StreamableHttpTransport(url=f"{protected.guard.url}/mcp")
    transport.oauth.CopyFrom(mcp_server_pb2.OAuthSettings(**given))
    host.registry.put("web", mcp_server_pb2.McpServerSpec(streamable_http=transport))


async def test_many_callers_have_one_token_and_wait_for_each_other_in_the_server_not_in_the_host(
    host: Host, protected: Protected
) -> None:
    put(host, protected)
    calls = (host.call("web", "meet", '{"count": 20}') for _ in range(20))
    results = await asyncio.gather(*calls)
    assert {each.content[0].text for each in results} == {"met"}
    (form,) = protected.authorization.forms
    assert form == {"grant_type": "client_credentials", "resource": f"{protected.guard.url}/mcp"}
    assert protected.authorization.shown[0].startswith("Basic ")
    protected.authorization.valid.clear()
    protected.guard.refused = 0
    results = await asyncio.gather(*(host.call("web", "hello") for _ in range(20)))
    assert {each.content[0].text for each in results} == {"hello"}
    assert len(protected.authorization.forms) == 2, "one more token after 401, for all"
    assert protected.guard.refused >= 1


async def test_a_token_that_expires_is_replaced_before_the_server_refuses_it(
    host: Host, protected: Protected
) -> None:
    protected.authorization.life_s = 1
    put(host, protected)
    await host.call("web", "hello")
    refused = protected.guard.refused

    async def is_renewed() -> bool:
        await host.call("web", "hello")
        return len(protected.authorization.forms) > 1

    await until_awaited(is_renewed, "another token")
    assert protected.guard.refused == refused


async def test_scopes_are_the_configured_ones_else_those_that_the_server_names(
    host: Host, protected: Protected
) -> None:
    protected.guard.scope = "tools.all"
    protected.authorization.methods = ["client_secret_post"]
    put(host, protected)
    await host.call("web", "hello")
    put(host, protected, scopes=["tools.read", "tools.call"])
    await host.call("web", "hello")
    asked = [form["scope"] for form in protected.authorization.forms]
    assert asked == ["tools.all", "tools.read tools.call"]
    assert protected.authorization.shown == ["", ""], "post where the metadata says so"


async def test_a_scope_that_a_call_needs_is_asked_for_too_unless_the_config_says_which(
    host: Host, protected: Protected
) -> None:
    protected.guard.scope = "tools.read"
    put(host, protected)
    await host.call("web", "hello")
    protected.guard.scope, protected.guard.insists = "tools.call", True
    await host.call("web", "hello")
    asked = [form["scope"] for form in protected.authorization.forms]
    assert asked == ["tools.read", "tools.read tools.call"]
    put(host, protected, scopes=["tools.read"])
    with pytest.raises(McpRequestRefusedError, match="HTTP status 403"):
        await host.call("web", "hello")
    assert len(protected.authorization.forms) == 3


async def test_its_secrets_are_checked_like_others(host: Host, protected: Protected) -> None:
    put(host, protected, client_secret="${env:NOT_THERE}")
    stub = service_pb2_grpc.McpServerServiceStub(host.channel.channel)
    answer = await stub.CheckSecrets(service_pb2.CheckSecretsRequest(namespace="default"))
    assert [each.field for each in answer.problems] == ["streamable_http.oauth.client_secret"]
    with pytest.raises(SecretNotFoundError, match="NOT_THERE"):
        await host.call("web", "hello")


async def test_a_key_signs_what_the_client_shows(host: Host, protected: Protected, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "client.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    protected.authorization.public_key = (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )
    put(host, protected, private_key=f"${{file:{path}}}", private_key_algorithm="ES256")
    assert (await host.call("web", "hello")).content[0].text == "hello"
    put(host, protected, private_key=f"${{file:{path}}}")
    with pytest.raises(McpServerUnavailableError, match="private_key cannot sign with RS256"):
        await host.call("web", "hello")


async def test_a_wrong_secret_is_a_typed_error_that_does_not_show_it(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wrong = "a/wrong secret"
    monkeypatch.setenv("CLIENT_SECRET", wrong)
    for methods in (None, ["client_secret_post"]):
        protected.authorization.methods = methods
        put(host, protected)
        with pytest.raises(
            McpServerUnavailableError, match=r"web has no OAuth token: http.*invalid_client"
        ) as caught:
            await host.call("web", "hello")
        said = str(caught.value) + str(caught.value.facts) + "".join(capfd.readouterr())
        assert "***" in said
        shown = protected.authorization.shown[-1].removeprefix("Basic ")
        for part in (wrong, "a%2Fwrong%20secret", *([shown] if shown else [])):
            assert part not in said


async def test_a_token_that_the_server_refuses_is_a_typed_error(host: Host, protected: Protected) -> None:
    protected.authorization.takes_all_back = True
    put(host, protected)
    with pytest.raises(McpServerUnavailableError, match=r"refuses the token of .*: invalid_token"):
        await host.call("web", "hello")
    assert len(protected.authorization.forms) == 1


async def test_the_secret_goes_to_no_other_issuer_than_the_configured_one(
    host: Host, protected: Protected
) -> None:
    put(host, protected, issuer="http://127.0.0.1:1")
    with pytest.raises(McpServerUnavailableError, match="is neither at the server nor at the issuer"):
        await host.call("web", "hello")
    assert not protected.authorization.forms


async def test_metadata_of_another_server_or_issuer_is_not_believed(host: Host, protected: Protected) -> None:
    protected.guard.resource = "http://127.0.0.1:1/mcp"
    put(host, protected)
    with pytest.raises(McpServerUnavailableError, match="does not match expected"):
        await host.call("web", "hello")
    protected.guard.resource = ""
    protected.authorization.issuer = "https://login.example.com"
    put(host, protected)
    with pytest.raises(McpServerUnavailableError, match="mismatch"):
        await host.call("web", "hello")
    assert not protected.authorization.forms


async def test_the_older_transport_has_tokens_too(host: Host) -> None:
    async with serve_protected(sse=True) as protected:
        protected.guard.resource = f"{protected.guard.url}/sse"
        transport = mcp_server_pb2.SseTransport(url=f"{protected.guard.url}/sse")
        transport.oauth.issuer = protected.authorization.url
        transport.oauth.client_id = CLIENT
        transport.oauth.client_secret = "${env:CLIENT_SECRET}"
        host.registry.put("old", mcp_server_pb2.McpServerSpec(sse=transport))
        assert (await host.call("old", "hello")).content[0].text == "hello"
        assert len(protected.authorization.forms) == 1
        await host.servers.restart("old")


async def test_the_authorization_server_of_a_server_by_api_must_be_listed(
    protected: Protected, tmp_path: Path
) -> None:
    listed = protected.guard.url.removeprefix("http://")
    issuer = protected.authorization.url.removeprefix("http://")
    async with open_host(Registry(), tmp_path, api_hosts=listed, api_env="CLIENT_*") as host:
        put(host, protected)
        host.registry.components["web", 1].source.api.SetInParent()
        with pytest.raises(ComponentNotAllowedError) as caught:
            await host.call("web", "hello")
        assert caught.value.facts["field"] == "streamable_http.oauth.issuer"
        assert caught.value.facts["setting"] == "RETINUE_API_HOSTS"
    assert not protected.authorization.forms
    both = f"{listed},{issuer}"
    async with open_host(Registry(), tmp_path, api_hosts=both, api_env="CLIENT_*") as host:
        put(host, protected)
        host.registry.components["web", 1].source.api.SetInParent()
        assert (await host.call("web", "hello")).content[0].text == "hello"
        await until(lambda: protected.authorization.forms, "a token was asked for")
