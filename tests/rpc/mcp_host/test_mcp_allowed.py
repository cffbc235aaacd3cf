"""What MCP servers that came by API may start, read and reach; and which secrets do not resolve."""

import json
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from retinue.common.v1 import error_pb2 as pb
from retinue.errors import ComponentNotAllowedError
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue.registry.v1 import component_pb2
from retinue_mcp_host.connections.pinning import Pin, PinnedTransport
from tests.certificates import make_certificate
from tests.rpc.engine.test_allowed import Names
from tests.rpc.mcp_host.hosting import Host, Registry, open_host, serve_http

NOT_ALLOWED = pb.ERROR_REASON_COMPONENT_NOT_ALLOWED
VALUE = "sk-value-that-nobody-sees"


def by_api(host: Host, name: str) -> component_pb2.Component:
    """A server's newest version, marked as one that came by API."""
    component = max(
        (each for (known, _), each in host.registry.components.items() if known == name),
        key=lambda each: each.version,
    )
    component.source.api.SetInParent()
    return component


async def refused(host: Host, name: str) -> str:
    """Assert that a server is neither listed nor called; the setting that it needs."""
    _, (failure,) = await host.list_tools(name)
    assert failure.failure.reason == NOT_ALLOWED, failure
    assert VALUE not in str(failure)
    with pytest.raises(ComponentNotAllowedError) as caught:
        await host.call(name, "add")
    assert caught.value.facts["kind"] == "mcp_server"
    assert caught.value.facts["name"] == name
    return f"{caught.value.facts['field']} {caught.value.facts['setting']}"


async def test_a_server_by_api_starts_and_reads_nothing_that_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", VALUE)
    async with open_host(Registry(), tmp_path, api_commands="/bin/true") as host:
        host.stdio("python", "sdk_server.py")
        host.stdio("path", "x", command="/bin/true", env={"PATH": "/tmp"})
        host.stdio("env", "x", command="/bin/true", env={"KEY": "${env:SET}"})
        host.stdio("file", "x", command="/bin/true", env={"KEY": f"${{file:{tmp_path}/key}}"})
        host.http("header", "http://9.9.9.9/mcp", {"Authorization": "Bearer ${env:NOT_SET}"})
        host.http("inside", "http://169.254.169.254/mcp")
        host.http("listed", "http://127.0.0.1:1/mcp")
        host.http("tls", "https://9.9.9.9/mcp")
        for name in ("python", "path", "env", "file", "header", "inside", "listed", "tls"):
            by_api(host, name)
        by_api(host, "tls").mcp_server.streamable_http.tls.ca_file = "/etc/hostname"
        assert [await refused(host, name) for name in ("python", "path", "env", "file")] == [
            "stdio.command RETINUE_API_COMMANDS",
            "stdio.env.PATH RETINUE_API_COMMANDS",
            "stdio.env.KEY RETINUE_API_ENV",
            "stdio.env.KEY RETINUE_API_FILES",
        ]
        assert [await refused(host, name) for name in ("header", "inside", "listed", "tls")] == [
            "streamable_http.headers.Authorization RETINUE_API_ENV",
            "streamable_http.url RETINUE_API_HOSTS",
            "streamable_http.url RETINUE_API_HOSTS",
            "streamable_http.tls.ca_file RETINUE_API_FILES",
        ]


async def test_a_listed_launcher_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SET", VALUE)
    async with open_host(Registry(), tmp_path, api_commands=f"x, {sys.executable}", api_env="SET") as host:
        host.stdio("python", "raw_server.py", env={"KEY": "${env:SET}"})
        by_api(host, "python")
        tools, failures = await host.list_tools("python")
        assert tools
        assert not failures


async def test_a_listed_host_is_looked_up_once_for_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names("localhost")
    async with (
        serve_http("sdk_server.py") as (url, _),
        open_host(Registry(), tmp_path, api_hosts="127.0.0.1") as host,
    ):
        monkeypatch.setattr(socket, "getaddrinfo", names)
        host.http("pinned", url.replace("127.0.0.1", "localhost"))
        by_api(host, "pinned")
        for _ in range(2):
            result = await host.call("pinned", "add", '{"a": 1, "b": 2}')
            assert json.loads(result.structured_json) == {"total": 3}
        assert names.asked == 1


async def test_a_pinned_connection_goes_by_the_name_and_to_no_other_host(tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "mcp.test")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(made.cert, made.key)
    hosts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.Response(status=307, headers={"Location": f"https://other.test:{port}/"})

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=served).start()
    port = runner.addresses[0][1]
    url = f"https://mcp.test:{port}/"
    # Nothing listens at the first address: the next is tried.
    pin = Pin(httpx2.URL(url), ("127.0.0.9", "127.0.0.1"))
    trusting = ssl.create_default_context(cafile=made.ca)
    try:
        async with httpx2.AsyncClient(transport=PinnedTransport(pin, verify=trusting)) as client:
            assert (await client.get(url, headers={"Host": "other.test"})).status_code == 307
            with pytest.raises(httpx2.ConnectError, match="is not at the host of the server's url"):
                await client.get(url, follow_redirects=True)
    finally:
        await runner.cleanup()
    assert hosts == [f"mcp.test:{port}"] * 2


async def test_check_secrets_names_what_does_not_resolve_and_shows_no_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", VALUE)
    async with open_host(Registry(), tmp_path) as host:
        host.http("api", "http://x/mcp", {"A": "${env:SET}"})
        by_api(host, "api")
        host.stdio("bad", "x", env={"A": "${env:NOT_SET}", "B": "${env:SET}"})
        stub = service_pb2_grpc.McpServerServiceStub(host.channel.channel)
        answer: Any = await host.channel.unary(stub.CheckSecrets, service_pb2.CheckSecretsRequest())
    found = [(each.name, each.field, each.reference, each.reason) for each in answer.problems]
    assert sorted(found) == [
        ("api", "streamable_http.headers.A", "${env:SET}", NOT_ALLOWED),
        ("bad", "stdio.env.A", "${env:NOT_SET}", pb.ERROR_REASON_SECRET_NOT_FOUND),
    ]
    assert VALUE not in str(answer)
