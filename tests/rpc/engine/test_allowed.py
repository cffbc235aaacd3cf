"""What llms and servers that came by API may use, seen from runs; and which secrets do not resolve."""

import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2, mcp_server_pb2
from retinue_engine.llm.direct import DirectTransport
from retinue_engine.llm.model import ChatRequest, Endpoint
from retinue_kit.allowed import Allowed, Place, parse_hosts
from tests.certificates import make_certificate
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]

NOT_ALLOWED = pb.ERROR_REASON_COMPONENT_NOT_ALLOWED
VALUE = "sk-value-that-nobody-sees"


async def apply_llm(suite: Suite, name: str = "api", **spec: Any) -> None:
    """Store an llm, and an agent of the same name that thinks with it."""
    given = {"model": "scripted", "protocol": llm_pb2.LLM_PROTOCOL_OPENAI_CHAT, "max_retries": 0} | spec
    llm = llm_pb2.LlmSpec(**{"base_url": suite.model.base_url, **given})
    await suite.client.components.apply(
        [
            component_pb2.Component(kind=component_pb2.COMPONENT_KIND_LLM, name=name, llm=llm),
            component_pb2.Component(
                kind=component_pb2.COMPONENT_KIND_AGENT, name=name, agent=agent_pb2.AgentSpec(llm=name)
            ),
        ]
    )


async def check_refused(suite: Suite, name: str, field: str, setting: str) -> None:
    """Assert that a run of an agent fails because of what its llm may not use."""
    result = await suite.result(name)
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.error.reason == NOT_ALLOWED
    facts = {"kind": "llm", "name": name, "field": field, "setting": setting}
    assert dict(result.error.metadata) == facts
    assert f"{setting} where the engine is started" in result.error.message


async def test_an_llm_by_api_may_use_nothing_that_is_not_listed(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SET", VALUE)
    (tmp_path / "key").write_text(VALUE)
    suite = await opened()
    assert (await suite.result("a")).state == run_pb2.RUN_STATE_SUCCEEDED  # the same address, from a file
    await apply_llm(suite, "here")
    await check_refused(suite, "here", "base_url", "RETINUE_API_HOSTS")
    # Whether a variable is set or a file is there makes no difference.
    for name, variable in (("set", "SET"), ("unset", "NOT_SET")):
        await apply_llm(suite, name, headers={"X-Key": f"key ${{env:{variable}}}"})
        await check_refused(suite, name, "headers.X-Key", "RETINUE_API_ENV")
    await apply_llm(suite, "file", api_key=f"${{file:{tmp_path}/key}}")
    await check_refused(suite, "file", "api_key", "RETINUE_API_FILES")
    await apply_llm(suite, "litellm", transport=llm_pb2.LLM_TRANSPORT_LITELLM)
    await check_refused(suite, "litellm", "base_url", "RETINUE_API_HOSTS")
    # litellm could find credentials of its own to send even to a public address.
    unknown = llm_pb2.LLM_PROTOCOL_UNSPECIFIED
    await apply_llm(suite, "cloud", model="vertex_ai/x", protocol=unknown, base_url="https://9.9.9.9")
    await check_refused(suite, "cloud", "base_url", "RETINUE_API_HOSTS")
    # Of these litellm alone knows where they lead.
    for name, model in (
        ("public", "openai/scripted"),
        ("own", "ollama/scripted"),
        ("url", f"huggingface/{suite.model.base_url}"),
    ):
        await apply_llm(suite, name, model=model, protocol=unknown, base_url="")
        error = (await suite.result(name)).error
        assert (error.reason, error.metadata["setting"]) == (NOT_ALLOWED, "RETINUE_API_HOSTS")
    assert len(suite.model.requests) == 1


async def test_what_is_listed_is_used(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SET", VALUE)
    (tmp_path / "key").write_text("from a file\n")
    suite = await opened(api_hosts="127.0.0.1", api_env="SE?", api_files=str(tmp_path))
    await apply_llm(suite, api_key="${env:SET}", headers={"X-Key": f"${{file:{tmp_path}/key}}"})
    assert (await suite.result("api")).state == run_pb2.RUN_STATE_SUCCEEDED
    assert suite.model.headers[-1]["Authorization"] == f"Bearer {VALUE}"
    assert suite.model.headers[-1]["X-Key"] == "from a file"


async def test_a_server_by_api_that_is_not_listed_has_no_tools(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(agents={"c": {"mcp_servers": ["s"]}}, mcp_servers={"s": {"stdio": {"command": "x"}}})
    stdio = mcp_server_pb2.StdioTransport(command="touch", args=[str(tmp_path / "started")])
    server = mcp_server_pb2.McpServerSpec(stdio=stdio)
    kind = component_pb2.COMPONENT_KIND_MCP_SERVER
    await suite.client.components.apply([component_pb2.Component(kind=kind, name="s", mcp_server=server)])
    result = await suite.result("c")
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.error.reason == NOT_ALLOWED
    assert result.error.metadata["setting"] == "RETINUE_API_COMMANDS"
    assert not (tmp_path / "started").exists()


async def test_check_secrets_names_what_does_not_resolve_and_shows_no_value(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", VALUE)
    suite = await opened(
        llms={
            "good": {"api_key": "${env:SET}"},
            "bad": {"api_key": "${env:NOT_SET}", "headers": {"A": "${env:SET} ${file:gone.txt}"}},
        }
    )
    await apply_llm(suite, api_key="${env:SET}")
    problems = await suite.client.secrets.of_llms()
    assert [(each.kind, each.name, each.field, each.reference, each.reason) for each in problems] == [
        ("llm", "api", "api_key", "${env:SET}", NOT_ALLOWED),
        ("llm", "bad", "api_key", "${env:NOT_SET}", pb.ERROR_REASON_SECRET_NOT_FOUND),
        (
            *("llm", "bad", "headers.A"),
            f"${{file:{suite.folder}/gone.txt}}",
            pb.ERROR_REASON_SECRET_NOT_FOUND,
        ),
    ]
    assert "RETINUE_API_ENV" in problems[0].message
    assert "export NOT_SET where the service is started" in problems[1].message
    assert VALUE not in str(problems)


class Names:
    """Leads a name to an address once, and to none from then on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0
        self.others = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host not in (self.name, self.name.encode()):
            return self.others(host, port, *args, **more)
        self.asked += 1
        address = "127.0.0.1" if self.asked == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]


async def test_an_address_is_looked_up_once_and_tls_goes_by_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_certificate(tmp_path, "model.test")
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(made.cert, made.key)
    hosts: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        hosts.append(request.host)
        return web.json_response({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=served).start()
    port = runner.addresses[0][1]
    names = Names("model.test")
    monkeypatch.setattr(socket, "getaddrinfo", names)
    reach = Allowed("engine", hosts=parse_hosts("127.0.0.1")).reach(
        Place("llm", "m", "base_url"), secret=False
    )
    endpoint = Endpoint("m", f"https://model.test:{port}/v1", None, {"host": "other.test"}, 10, reach=reach)
    trusting = ssl.create_default_context(cafile=made.ca)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
            completion = await DirectTransport(session).complete(
                endpoint, ChatRequest([], ()), lambda _text: None
            )
    finally:
        await runner.cleanup()
    assert completion.text == "hi"
    assert hosts == [f"model.test:{port}"]
    assert names.asked == 1
