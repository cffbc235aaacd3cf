"""Looks at what is configured: the keys and servers of llms, and MCP servers."""

import asyncio
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retinue.errors import RetinueError, reason_name
from retinue.registry.v1 import component_pb2
from retinue_cli.doctor.finding import Finding, ok, problem, warning
from retinue_cli.failures import words
from retinue_cli.wording import count

if TYPE_CHECKING:
    from retinue.client import Client

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_CONNECT_TIMEOUT_S = 2.0
_SERVERS_AT_ONCE = 100
THIS_SHELL = "this shell was looked at; what counts is the engine's own environment"


async def look_at_components(client: "Client", *, host_runs: bool) -> list[Finding]:
    """The llms, then the MCP servers. Those are left out where the MCP host does not run."""
    try:
        components = [component async for component in client.components.list()]
    except RetinueError:
        return []  # said already where the stores were looked at
    used = {each.agent.llm for each in components if each.kind == component_pb2.COMPONENT_KIND_AGENT}
    llms = [each for each in components if each.kind == component_pb2.COMPONENT_KIND_LLM]
    found = await asyncio.gather(*(_llm(each, used=each.name in used) for each in llms))
    servers = [each.name for each in components if each.kind == component_pb2.COMPONENT_KIND_MCP_SERVER]
    return [*found, *(await _mcp_servers(client, servers) if host_runs else [])]


async def _llm(component: component_pb2.Component, *, used: bool) -> Finding:
    spec, name = component.llm, component.name
    missing = list(_missing_secrets([spec.api_key, *spec.headers.values()]))
    if missing:
        what = ", ".join(missing)
        todo = f"export it where `retinue up` or the engine is started ({THIS_SHELL})"
        if used:
            return problem("llm", name, f"needs {what}, which is not set here", todo)
        return warning("llm", name, f"needs {what}, which is not set here; no agent uses it by default", todo)
    closed = await _closed_here(spec.base_url)
    if closed:
        todo = f"start it; a scripted model with `retinue up`, or `retinue dev model --port {closed}`"
        found = f"nothing listens at {spec.base_url}"
        return problem("llm", name, found, todo) if used else warning("llm", name, found, todo)
    key = (
        f"its key is set in this shell ({THIS_SHELL})"
        if _REFERENCE.search(spec.api_key)
        else "it needs no key"
    )
    where = f"; {spec.base_url} listens" if spec.base_url and _is_here(spec.base_url) else ""
    return ok("llm", name, f"{spec.model}: {key}{where}")


def _missing_secrets(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        for kind, name in _REFERENCE.findall(text):
            if kind == "env" and name not in os.environ:
                yield name
            elif kind == "file" and not os.access(name, os.R_OK):
                yield f"the file {Path(name)}"


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
    if reason == "MCP_TIMEOUT":
        return "start its command by hand to see what it waits for; connect_timeout gives it longer"
    return f"correct its command or url in the project; `retinue tools {name}` tries again"
