"""Looks at what is configured: the keys and servers of llms, and MCP servers."""

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retinue.errors import RetinueError, reason_name
from retinue.registry.v1 import component_pb2
from retinue_cli.doctor.finding import Finding, ok, problem, warning
from retinue_cli.doctor.secrets import SecretsFound, look_for_secrets
from retinue_cli.failures import words
from retinue_cli.wording import count

if TYPE_CHECKING:
    from retinue.client import Client

_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_CONNECT_TIMEOUT_S = 2.0
_SERVERS_AT_ONCE = 100


async def look_at_components(client: "Client", *, engine_runs: bool, host_runs: bool) -> list[Finding]:
    """The llms, the custom workflows that lack a secret, then the MCP servers."""
    try:
        components = [component async for component in client.components.list()]
    except RetinueError:
        return []  # said already where the stores were looked at
    secrets = await look_for_secrets(client, components, engine_runs=engine_runs, host_runs=host_runs)
    used = {each.agent.llm for each in components if each.kind == component_pb2.COMPONENT_KIND_AGENT}
    llms = [each for each in components if each.kind == component_pb2.COMPONENT_KIND_LLM]
    found = await asyncio.gather(*(_llm(each, secrets, used=each.name in used) for each in llms))
    servers = [each.name for each in components if each.kind == component_pb2.COMPONENT_KIND_MCP_SERVER]
    flows = [each.name for each in components if each.HasField("custom_workflow")]
    unfit = {name: missing for name in flows if (missing := secrets.of("custom_workflow", name))}
    lacking = {name: missing for name in servers if (missing := secrets.of("mcp_server", name))}
    return [
        *found,
        *(problem("custom_workflow", name, each.found, each.todo) for name, each in unfit.items()),
        *(problem("mcp_server", name, each.found, each.todo) for name, each in lacking.items()),
        *(await _mcp_servers(client, [name for name in servers if name not in lacking]) if host_runs else []),
    ]


async def _llm(component: component_pb2.Component, secrets: SecretsFound, *, used: bool) -> Finding:
    spec, name = component.llm, component.name
    missing = secrets.of("llm", name)
    if missing and used:
        return problem("llm", name, missing.found, missing.todo)
    if missing:
        return warning("llm", name, f"{missing.found}; no agent uses it by default", missing.todo)
    closed = await _closed_here(spec.base_url)
    if closed:
        todo = f"start it; a scripted model with `retinue up`, or `retinue dev model --port {closed}`"
        found = f"nothing listens at {spec.base_url}"
        return problem("llm", name, found, todo) if used else warning("llm", name, found, todo)
    key = "it needs no key"
    if spec.api_key:
        key = "the engine has its key" if "llm" in secrets.asked else "its key is set in this shell"
    where = f"; {spec.base_url} listens" if spec.base_url and _is_here(spec.base_url) else ""
    return ok("llm", name, f"{spec.model}: {key}{where}")


def _is_here(base_url: str) -> bool:
    return urlsplit(base_url).hostname in _LOOPBACK


async def _closed_here(base_url: str) -> int:
    """The port of an address on this machine at which nothing listens; 0 for all others."""
    if not base_url or not _is_here(base_url):
        return 0
    parts = urlsplit(base_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return port
    writer.close()
    return 0


async def _mcp_servers(client: "Client", names: list[str]) -> list[Finding]:
    from retinue.mcphost.v1 import tool_pb2

    found: list[Finding] = []
    for start in range(0, len(names), _SERVERS_AT_ONCE):
        part = names[start : start + _SERVERS_AT_ONCE]
        try:
            tools, failures = await client.tools.list([tool_pb2.ServerRef(name=name) for name in part])
        except RetinueError as error:
            found.append(problem("mcp_server", "MCP servers", words(error), "see the MCP host's log"))
            continue
        failed = {each.server: each.failure for each in failures}
        for name in part:
            if name in failed:
                reason = reason_name(failed[name].reason)
                found.append(problem("mcp_server", name, failed[name].message, _server_todo(reason, name)))
            else:
                has = sum(tool.server == name for tool in tools)
                found.append(ok("mcp_server", name, f"answers; {count(has, 'tool')}"))
    return found


def _server_todo(reason: str, name: str) -> str:
    if reason == "SECRET_NOT_FOUND":
        return "set it where `retinue up` or the MCP host is started"
    if reason == "COMPONENT_NOT_ALLOWED":
        return "list it where `retinue up` or the MCP host is started, or put the server into a file"
    if reason == "MCP_LOGIN_REQUIRED":
        return f"run `retinue login {name}`"
    if reason == "MCP_TIMEOUT":
        return "start its command by hand to see what it waits for; connect_timeout gives it longer"
    return f"correct its command or url in the project; `retinue tools {name}` tries again"
