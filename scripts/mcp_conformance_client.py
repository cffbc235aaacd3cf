"""The client that MCP's conformance runner starts for one scenario: `mcp_conformance_client.py URL`.

It speaks no MCP: it stores the runner's server in a registry and calls all its tools through a running MCP
host over gRPC. Forms that a server asks for are accepted with the defaults of their schemas, as a person does
who changes nothing.
"""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

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


async def main() -> int:
    """Store the server, list its tools, call them."""
    name = os.environ["MCP_CONFORMANCE_SCENARIO"].replace("/", "-")
    transport = mcp_server_pb2.StreamableHttpTransport(url=sys.argv[1])
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
