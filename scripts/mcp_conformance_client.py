"""The client that MCP's conformance runner starts for one scenario: `mcp_conformance_client.py URL`.

It speaks no MCP: it stores the runner's server in a registry and calls all its tools through a running MCP
host over gRPC. Forms that a server asks for are accepted with the defaults of their schemas, as a person does
who changes nothing.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
from google.protobuf.duration_pb2 import Duration

from retinue.client import Client, open_client
from retinue.errors import RetinueError
from retinue.mcphost.v1 import server_request_pb2, tool_pb2
from retinue.registry.v1 import component_pb2, mcp_server_pb2

SAMPLES: dict[str, Any] = {
    "string": "text",
    "integer": 1,
    "number": 1,
    "boolean": True,
    "array": [],
    "object": {},
}
"""A value of each type of JSON Schema."""

IDLE = Duration(seconds=1)
"""The runner waits at the end of a scenario until the host has closed its connection."""


def arguments_of(tool: tool_pb2.Tool, tools: Sequence[tool_pb2.Tool]) -> dict[str, Any]:
    """Arguments that a tool takes: each that its schema names; for a `schema` that of the first tool."""
    properties = json.loads(tool.input_schema_json).get("properties", {})
    arguments = {name: SAMPLES.get(each.get("type"), "") for name, each in properties.items()}
    if "schema" in arguments:
        arguments["schema"] = json.loads(tools[0].input_schema_json)
    return arguments


def calls_of(tools: Sequence[tool_pb2.Tool]) -> list[tuple[str, dict[str, Any]]]:
    """What to call: what the scenario says, else each tool once."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    if wanted := context.get("toolCalls"):
        return [(each["name"], each["arguments"]) for each in wanted]
    return [(tool.name, arguments_of(tool, tools)) for tool in tools]


def filled_in(form: server_request_pb2.Elicitation) -> server_request_pb2.ElicitationAnswer:
    """A form as it is, with its defaults."""
    properties = json.loads(form.schema_json).get("properties", {})
    content = {name: each["default"] for name, each in properties.items() if "default" in each}
    return server_request_pb2.ElicitationAnswer(
        action=server_request_pb2.ELICITATION_ACTION_ACCEPT, content_json=json.dumps(content)
    )


async def call(client: Client, server: str, tool: str, arguments: dict[str, Any]) -> None:
    """Call one tool and answer what it asks. That a tool fails is for the scenario to judge."""
    updates = client.tools.call(server, tool, json.dumps(arguments), accepts_elicitation=True)
    try:
        async for update in updates:
            if update.HasField("request"):
                await client.tools.answer(update.request.request_id, filled_in(update.request.elicitation))
            elif update.HasField("result"):
                print(f"{tool}: {update.result}")
    except RetinueError as error:
        print(f"{tool}: {error.message}", file=sys.stderr)


def issuer_of(url: str) -> str:
    """The authorization server that a server's metadata names: an operator knows it, the runner is silent."""
    parts = urlsplit(url)
    server = f"{parts.scheme}://{parts.netloc}"
    known = f"{server}/.well-known/oauth-protected-resource"
    named = re.search(
        r'resource_metadata="([^"]+)"', httpx2.post(url, json={}).headers.get("www-authenticate", "")
    )
    for place in (*(named.groups() if named else ()), f"{known}{parts.path}", known):
        answer = httpx2.get(place)
        if answer.is_success:
            return str(answer.json()["authorization_servers"][0])
    return server


def oauth_of(url: str) -> mcp_server_pb2.OAuthSettings:
    """The client that the scenario has registered, or one that its authorization server may know."""
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    settings = mcp_server_pb2.OAuthSettings(
        issuer=context.get("issuer") or issuer_of(url), client_id=context.get("client_id", "retinue")
    )
    key = context.get("private_key_pem")
    path = Path(os.environ["MCP_CONFORMANCE_SECRETS"], str(os.getpid()))
    path.write_text(key or context.get("client_secret", "a-secret-of-the-client"))
    if key:
        settings.private_key = f"${{file:{path}}}"
        settings.private_key_algorithm = context["signing_algorithm"]
    else:
        settings.client_secret = f"${{file:{path}}}"
    return settings


async def main() -> int:
    """Store the server, list its tools, call them."""
    name = os.environ["MCP_CONFORMANCE_SCENARIO"].replace("/", "-")
    transport = mcp_server_pb2.StreamableHttpTransport(url=sys.argv[1])
    if name.startswith("auth-"):
        transport.oauth.CopyFrom(oauth_of(sys.argv[1]))
    component = component_pb2.Component(
        kind=component_pb2.COMPONENT_KIND_MCP_SERVER,
        name=name,
        mcp_server=mcp_server_pb2.McpServerSpec(streamable_http=transport, idle_timeout=IDLE),
    )
    async with open_client() as client:
        await client.components.apply([component])
        tools, failures = await client.tools.list([tool_pb2.ServerRef(name=name)])
        for failure in failures:
            print(failure.failure.message, file=sys.stderr)
        for tool, arguments in calls_of(tools):
            await call(client, name, tool, arguments)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
