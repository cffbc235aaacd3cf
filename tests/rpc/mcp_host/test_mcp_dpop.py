"""Tokens that are bound to a key of the host's (DPoP, RFC 9449). The servers check each proof."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from retinue.errors import McpLoginFailedError, McpLoginRequiredError, McpServerUnavailableError
from retinue.registry.v1 import mcp_server_pb2
from tests.servers.oauth_servers import CLIENT, JWT_BEARER, SECRET, Protected, serve_protected

from .hosting import Host, Registry, open_host, until_awaited
from .logging_in import log_in, put_login, transport_of

OWN = mcp_server_pb2.GRANT_TYPE_CLIENT_CREDENTIALS


@pytest.fixture
async def protected() -> AsyncIterator[Protected]:
    async with serve_protected() as opened:
        opened.guard.scheme = "DPoP"
        yield opened


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIENT_SECRET", SECRET)


def put(host: Host, protected: Protected, **more: Any) -> None:
    """Store the server, as `web`; the host asks as itself."""
    client = {"client_id": CLIENT, "client_secret": "${env:CLIENT_SECRET}"}
    put_login(host, protected, **({"grant": OWN, "issuer": protected.authorization.url} | client | more))


async def hello(host: Host) -> str:
    return (await host.call("web", "hello")).content[0].text


def counting() -> Callable[[], str]:
    """Nonces, none twice."""
    numbers = itertools.count(1)
    return lambda: f"nonce-{next(numbers)}"


def keys_of(protected: Protected) -> set[str]:
    return set(protected.authorization.bound.values())


async def test_the_host_binds_its_own_token_where_the_server_takes_no_other(
    host: Host, protected: Protected
) -> None:
    put(host, protected)
    assert await asyncio.gather(*(hello(host) for _ in range(20))) == ["hello"] * 20
    assert len(protected.authorization.proofs.taken) == 1
    assert len(protected.guard.proofs.taken) > 20, "a proof of its own for each request"
    assert len({each["jti"] for each in protected.guard.proofs.taken}) == len(protected.guard.proofs.taken)
    assert not protected.guard.proofs.refused
    protected.authorization.valid.clear()
    assert await hello(host) == "hello"
    assert len(protected.authorization.forms) == 2
    assert len(keys_of(protected)) == 1, "the next token is bound to the same key"


async def test_a_workload_has_bound_tokens_too(
    host: Host, protected: Protected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASSERTION", SECRET)
    transport = transport_of(
        protected,
        grant=mcp_server_pb2.GRANT_TYPE_JWT_BEARER,
        issuer=protected.authorization.url,
        client_id=CLIENT,
        assertion="${env:ASSERTION}",
    )
    host.registry.put("web", mcp_server_pb2.McpServerSpec(streamable_http=transport))
    assert await hello(host) == "hello"
    assert protected.authorization.forms[0]["grant_type"] == JWT_BEARER
    assert len(keys_of(protected)) == 1


async def test_the_older_transport_has_bound_tokens_too(host: Host) -> None:
    async with serve_protected(sse=True) as protected:
        protected.guard.scheme = "DPoP"
        protected.guard.resource = f"{protected.guard.url}/sse"
        transport = mcp_server_pb2.SseTransport(url=protected.guard.resource)
        transport.oauth.issuer = protected.authorization.url
        transport.oauth.client_id = CLIENT
        transport.oauth.client_secret = "${env:CLIENT_SECRET}"
        host.registry.put("old", mcp_server_pb2.McpServerSpec(sse=transport))
        assert (await host.call("old", "hello")).content[0].text == "hello"
        assert {each["htm"] for each in protected.guard.proofs.taken} == {"GET", "POST"}
        assert not protected.guard.proofs.refused
        await host.servers.restart("old")


async def test_a_server_that_takes_bearer_tokens_gets_none_that_is_bound(
    host: Host, protected: Protected
) -> None:
    protected.guard.scheme = "Bearer"
    protected.authorization.metadata = {"dpop_signing_alg_values_supported": ["ES256"]}
    put(host, protected)
    assert await hello(host) == "hello"
    put_login(host, protected)
    await log_in(host)
    assert await hello(host) == "hello"
    assert not protected.authorization.proofs.taken
    assert not protected.authorization.bound


@pytest.mark.parametrize("by", ["config", "metadata"])
async def test_a_token_is_bound_where_the_config_or_the_servers_metadata_wants_it(
    host: Host, protected: Protected, by: str
) -> None:
    # Its refusals do not say so.
    protected.guard.challenge = "Bearer"
    if by == "metadata":
        protected.guard.metadata = {"dpop_bound_access_tokens_required": True}
    put(host, protected, require_dpop=by == "config")
    assert await hello(host) == "hello"
    put_login(host, protected, require_dpop=by == "config")
    await log_in(host)
    assert await hello(host) == "hello"
    assert len(keys_of(protected)) == 2


async def test_a_login_has_a_key_of_its_own_and_keeps_it_when_it_is_renewed(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    await log_in(host)
    assert await hello(host) == "hello"
    protected.authorization.valid.clear()
    assert await hello(host) == "hello"
    assert protected.authorization.forms[-1]["grant_type"] == "refresh_token"
    assert len(keys_of(protected)) == 1
    await log_in(host)
    assert await hello(host) == "hello"
    assert len(keys_of(protected)) == 2
    assert not protected.guard.proofs.refused


async def test_the_key_of_a_login_outlasts_the_host_with_it(
    registry: Registry, protected: Protected, tmp_path: Path
) -> None:
    kept = tmp_path / "data" / "logins.json"
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        put_login(host, protected)
        await log_in(host)
        assert await hello(host) == "hello"
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        assert await hello(host) == "hello"
        protected.authorization.valid.clear()
        assert await hello(host) == "hello", "renewed with the same key"
    assert len(keys_of(protected)) == 1
    content = json.loads(kept.read_text())
    content["logins"][0]["login"]["dpop_key"] = "-----BEGIN NOTHING"
    kept.write_text(json.dumps(content))
    async with open_host(registry, tmp_path, logins_file=kept) as host:
        with pytest.raises(McpServerUnavailableError, match="log out and in again") as caught:
            await hello(host)
        assert "NOTHING" not in str(caught.value)


async def test_nonces_of_both_servers_are_put_into_the_proofs(host: Host, protected: Protected) -> None:
    authorization, guard = protected.authorization.proofs, protected.guard.proofs
    authorization.next_nonce, guard.next_nonce = counting(), lambda: "of the server!".replace(" ", "_")
    put(host, protected)
    assert await hello(host) == "hello"
    assert await hello(host) == "hello"
    assert authorization.refused == guard.refused == ["another nonce"], "each origin's nonce is kept"
    assert {each["nonce"] for each in authorization.taken} == {"nonce-1"}
    assert {each["nonce"] for each in guard.taken} == {"of_the_server!"}
    authorization.nonce = guard.nonce = "expired"
    protected.authorization.valid.clear()
    assert await hello(host) == "hello"
    assert authorization.taken[-1]["nonce"] == "nonce-2"


async def test_what_a_client_signs_goes_with_one_request_also_where_a_nonce_is_wanted(
    host: Host, protected: Protected, tmp_path: Path
) -> None:
    key, path = ec.generate_private_key(ec.SECP256R1()), tmp_path / "client.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    protected.authorization.public_key = key.public_key().public_bytes(*public).decode()
    protected.authorization.proofs.next_nonce = counting()
    shown = {"client_secret": "", "private_key": f"${{file:{path}}}", "private_key_algorithm": "ES256"}
    put(host, protected, **shown)
    assert await hello(host) == "hello"
    assert protected.authorization.proofs.refused == ["another nonce"]


async def test_a_login_is_finished_and_renewed_with_nonces(host: Host, protected: Protected) -> None:
    authorization, guard = protected.authorization.proofs, protected.guard.proofs
    authorization.next_nonce, guard.next_nonce = counting(), counting()
    put_login(host, protected)
    await log_in(host)
    assert await hello(host) == "hello"
    authorization.nonce = guard.nonce = "expired"
    protected.authorization.valid.clear()
    assert await hello(host) == "hello"
    assert protected.authorization.forms[-1]["grant_type"] == "refresh_token"
    assert {*authorization.refused, *guard.refused} == {"another nonce"}


NONCES: list[Any] = [counting, lambda: lambda: "n" * 5000, lambda: lambda: 'a"b', lambda: lambda: ""]


@pytest.mark.parametrize("make", NONCES, ids=["another each time", "huge", "no nonce", "none"])
async def test_nonces_that_lead_nowhere_are_asked_for_once(
    host: Host, protected: Protected, make: Callable[[], Callable[[], str]]
) -> None:
    authorization, guard = protected.authorization.proofs, protected.guard.proofs
    authorization.next_nonce, authorization.takes_nonces = make(), False
    put(host, protected)
    with pytest.raises(McpServerUnavailableError, match=r"/token does not take the proof .*: use_dpop_nonce"):
        await hello(host)
    assert len(authorization.refused) <= 2
    put_login(host, protected)
    with pytest.raises(McpLoginFailedError, match=r"/token does not take the proof .*: use_dpop_nonce"):
        await log_in(host)
    assert len(authorization.refused) <= 4
    authorization.next_nonce, guard.next_nonce = None, make()
    guard.takes_nonces = False
    await log_in(host)
    asked = len(protected.authorization.forms)
    with pytest.raises(McpServerUnavailableError, match=r"web does not take the proof .*: use_dpop_nonce"):
        await hello(host)
    assert len(guard.refused) <= 2
    assert len(protected.authorization.forms) == asked, "no other token would help"
    guard.next_nonce = None
    await host.servers.restart("web")
    assert await hello(host) == "hello", "the login holds"


async def test_a_renewal_whose_proof_is_refused_ends_no_login(host: Host, protected: Protected) -> None:
    put_login(host, protected)
    await log_in(host)
    assert await hello(host) == "hello"
    proofs = protected.authorization.proofs
    proofs.next_nonce, proofs.takes_nonces = counting(), False
    protected.authorization.valid.clear()
    with pytest.raises(McpServerUnavailableError, match=r"could not be renewed: .* use_dpop_nonce"):
        await hello(host)
    assert (await host.servers.get("web")).login.state != 0
    assert protected.authorization.refresh_tokens


async def test_a_token_that_is_not_bound_is_not_taken_where_one_was_asked_for(
    host: Host, protected: Protected
) -> None:
    protected.authorization.binds = False
    put(host, protected)
    with pytest.raises(McpServerUnavailableError, match=r"/token answered is no token that is bound"):
        await hello(host)
    put_login(host, protected)
    with pytest.raises(McpLoginFailedError, match=r"/token answered is no token that is bound"):
        await log_in(host)
    with pytest.raises(McpLoginRequiredError):
        await hello(host)
    assert not any(protected.guard.shown), "it was shown to nobody"


async def test_a_server_that_calls_each_proof_a_replay_is_told_of_no_more_than_once(
    host: Host, protected: Protected
) -> None:
    put_login(host, protected)
    await log_in(host)
    assert await hello(host) == "hello"
    protected.guard.proofs.takes_none = True
    seen = len(protected.guard.proofs.refused)
    with pytest.raises(McpServerUnavailableError, match=r"does not take the proof .*: invalid_dpop_proof"):
        await hello(host)
    assert len(protected.guard.proofs.refused) == seen + 1
    protected.guard.proofs.takes_none = False

    async def is_back() -> bool:
        try:
            return await hello(host) == "hello"
        except McpServerUnavailableError:
            return False

    await until_awaited(is_back, "the server is used again, with the same login")
    assert len(protected.authorization.asked) == 1
