"""Which secrets the doctor misses: the services say it, and this shell where one does not run."""

from collections.abc import Awaitable, Callable

import pytest

from retinue.registry.v1 import component_pb2, llm_pb2
from retinue_cli.doctor.secrets import SecretsFound, look_for_secrets
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]

SERVER = {"stdio": {"command": "x", "env": {"A": "${env:ONLY_HERE}", "B": "${env:NOWHERE} ${file:/no/file}"}}}


FLOW = {"entry_point": "m:C", "env": {"A": "${env:NOWHERE}"}}


async def looked(suite: Suite, *, runs: bool) -> SecretsFound:
    components = [each async for each in suite.client.components.list()]
    return await look_for_secrets(suite.client, components, engine_runs=runs, host_runs=runs)


async def test_the_services_are_asked_where_they_run(opened: OpenSuite) -> None:
    suite = await opened(
        llms={"keyless": {"api_key": "${env:NOWHERE}"}},
        mcp_servers={"s": SERVER},
        custom_workflows={"flow": FLOW},
    )
    llm = llm_pb2.LlmSpec(model="m", api_key="${env:HOME}")
    kind = component_pb2.COMPONENT_KIND_LLM
    await suite.client.components.apply([component_pb2.Component(kind=kind, name="api", llm=llm)])
    found = await looked(suite, runs=True)
    assert found.asked == {"llm", "custom_workflow", "mcp_server"}
    keyless, api, server = found.of("llm", "keyless"), found.of("llm", "api"), found.of("mcp_server", "s")
    assert keyless is not None
    assert keyless.found == "api_key needs ${env:NOWHERE}, which is not there where the engine runs"
    assert api is not None
    assert "may not use" in api.found
    assert "list it in RETINUE_API_ENV where `retinue up` or the engine is started" in api.todo
    assert server is not None
    assert server.found.count("which is not there where the MCP host runs") == 3
    assert server.todo.count("where `retinue up` or the MCP host is started") == 1
    assert found.of("llm", "m") is None
    flow = found.of("custom_workflow", "flow")
    assert flow is not None
    assert flow.found == "env.A needs ${env:NOWHERE}, which is not there where the engine runs"


async def test_this_shell_is_looked_at_where_a_service_does_not_run(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONLY_HERE", "x")
    suite = await opened(
        llms={"keyless": {"headers": {"X": "${env:NOWHERE}"}}},
        mcp_servers={"s": SERVER},
        custom_workflows={"flow": FLOW},
    )
    found = await looked(suite, runs=False)
    assert found.asked == set()
    keyless, server = found.of("llm", "keyless"), found.of("mcp_server", "s")
    flow = found.of("custom_workflow", "flow")
    assert flow is not None
    assert flow.found == "env.A needs ${env:NOWHERE}, which is not set here"
    assert keyless is not None
    assert keyless.found == "headers.X needs ${env:NOWHERE}, which is not set here"
    assert "the engine does not run: this shell was looked at" in keyless.todo
    assert server is not None
    assert server.found == (
        "stdio.env.B needs ${env:NOWHERE}, which is not set here; "
        "stdio.env.B needs ${file:/no/file}, which is not set here"
    )
