"""Looks for the secrets that components refer to: where the services look for them, else in this shell."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retinue.common.v1 import error_pb2
from retinue.errors import RetinueError
from retinue.registry.v1 import component_pb2

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.common.v1.secret_pb2 import SecretProblem

_REFERENCE = re.compile(r"\$\{(env|file):([^}]+)\}")
_LLM, _MCP_SERVER = component_pb2.COMPONENT_KIND_LLM, component_pb2.COMPONENT_KIND_MCP_SERVER
_SERVICES = {"llm": "engine", "custom_workflow": "engine", "mcp_server": "MCP host"}


@dataclass(frozen=True, slots=True)
class Missing:
    """A reference that does not resolve, and what to do about it."""

    found: str
    todo: str


@dataclass(slots=True)
class SecretsFound:
    """What was found, by kind and name of component."""

    missing: dict[tuple[str, str], list[Missing]]
    asked: set[str]
    """The kinds whose service was asked; for the others this shell was looked at."""

    def of(self, kind: str, name: str) -> Missing | None:
        """All that a component lacks, as one; None where it lacks nothing."""
        each = self.missing.get((kind, name))
        if not each:
            return None
        return Missing(
            "; ".join(one.found for one in each), "; ".join(dict.fromkeys(one.todo for one in each))
        )


async def look_for_secrets(
    client: "Client", components: Iterable[component_pb2.Component], *, engine_runs: bool, host_runs: bool
) -> SecretsFound:
    """Ask the services that run; look into this shell for those that do not."""
    result = SecretsFound({}, set())
    asks = {
        "llm": client.secrets.of_llms if engine_runs else None,
        "mcp_server": client.secrets.of_mcp_servers if host_runs else None,
    }
    for kind, ask in asks.items():
        if ask is None:
            continue
        try:
            problems = await ask()
        except RetinueError:
            continue  # an older service; its own finding says where it fails
        result.asked.update(each for each, service in _SERVICES.items() if service == _SERVICES[kind])
        for each in problems:
            told = _told(each, _SERVICES.get(each.kind, _SERVICES[kind]))
            result.missing.setdefault((each.kind, each.name), []).append(told)
    for component in components:
        kind, fields = _secret_fields(component)
        if kind and kind not in result.asked:
            found = [_in_shell(field, name, _SERVICES[kind]) for field, name in _unset_here(fields)]
            if found:
                result.missing[kind, component.name] = found
    return result


def _told(problem: "SecretProblem", service: str) -> Missing:
    needs = f"{problem.field} needs {problem.reference}"
    if problem.reason == error_pb2.ERROR_REASON_COMPONENT_NOT_ALLOWED:
        setting = "RETINUE_API_ENV" if problem.reference.startswith("${env:") else "RETINUE_API_FILES"
        return Missing(
            f"{needs}, which components that came by API may not use there",
            f"list it in {setting} where `retinue up` or the {service} is started, or put the component "
            "into a file",
        )
    return Missing(
        f"{needs}, which is not there where the {service} runs",
        f"set it where `retinue up` or the {service} is started, and start that again",
    )


def _in_shell(field: str, reference: str, service: str) -> Missing:
    return Missing(
        f"{field} needs {reference}, which is not set here",
        f"set it where `retinue up` or the {service} is started (the {service} does not run: this shell was "
        "looked at)",
    )


def _secret_fields(component: component_pb2.Component) -> tuple[str, Mapping[str, str]]:
    if component.kind == _LLM:
        llm = component.llm
        return "llm", {"api_key": llm.api_key} | {
            f"headers.{name}": text for name, text in llm.headers.items()
        }
    if component.HasField("custom_workflow"):
        env = component.custom_workflow.env
        return "custom_workflow", {f"env.{name}": text for name, text in env.items()}
    if component.kind != _MCP_SERVER:
        return "", {}
    server = component.mcp_server
    if server.HasField("stdio"):
        return "mcp_server", {f"stdio.env.{name}": text for name, text in server.stdio.env.items()}
    transport = server.WhichOneof("transport") or ""
    headers = getattr(server, transport).headers if transport else {}
    return "mcp_server", {f"{transport}.headers.{name}": text for name, text in headers.items()}


def _unset_here(fields: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for field, text in sorted(fields.items()):
        for match in _REFERENCE.finditer(text):
            kind, name = match.groups()
            if (kind == "env" and name not in os.environ) or (
                kind == "file" and not os.access(name, os.R_OK)
            ):
                yield field, match.group()
