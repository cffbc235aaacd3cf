"""`tools`: what the tools of MCP servers are."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import FAILED
from retinue_cli.output import Output, to_json
from retinue_cli.wording import one_line

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.mcphost.v1 import tool_pb2


@calling
async def tools(
    call: Call,
    servers: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SERVER]...", help="Which MCP servers; all where none is named.", show_default=False
        ),
    ] = None,
) -> None:
    """List the tools of MCP servers.

    Those that do not run are started. Exit status 1 where one fails.
    """
    from retinue.mcphost.v1 import tool_pb2

    output = call.output
    async with call.open_client() as client:
        names = servers or await server_names(client)
        if not names:
            output.object({"tools": [], "failures": []}) if output.as_json else output.line(
                "No MCP servers here"
            )
            return
        found, failures = await client.tools.list([tool_pb2.ServerRef(name=name) for name in names])
    if output.as_json:
        output.object(
            {
                "tools": [_tool_json(tool) for tool in found],
                "failures": [to_json(failure) for failure in failures],
            }
        )
    else:
        _show(output, names, found, failures)
    if failures:
        raise typer.Exit(FAILED)


async def server_names(client: "Client") -> list[str]:
    """The names of all MCP servers that the registry knows."""
    from retinue.registry.v1 import component_pb2

    kind = component_pb2.COMPONENT_KIND_MCP_SERVER
    return [component.name async for component in client.components.list(kind)]


def _show(
    output: Output,
    names: list[str],
    found: "list[tool_pb2.Tool]",
    failures: "list[tool_pb2.ServerFailure]",
) -> None:
    failed = {failure.server: failure.failure for failure in failures}
    for name in names:
        if name in failed:
            output.parts(("✗ ", "red"), (name, "bold"), (f"  {failed[name].message}", ""))
            for line in failed[name].metadata.get("stderr", "").splitlines():
                if line not in failed[name].message:
                    output.line(f"    {line}", style="dim")
            continue
        output.parts((name, "bold cyan"))
        for tool in found:
            if tool.server == name:
                output.parts(
                    ("  ", ""), (tool.name, "bold"), (f"({_arguments(tool.input_schema_json)})", "cyan")
                )
                output.line(f"      {one_line(tool.description, 300)}", style="dim")


def _arguments(schema_json: str) -> str:
    """The arguments of a schema in short: `timezone, format?`."""
    schema = _parsed(schema_json)
    required = schema.get("required", [])
    return ", ".join(name if name in required else f"{name}?" for name in schema.get("properties", {}))


def _tool_json(tool: "tool_pb2.Tool") -> dict[str, Any]:
    return to_json(tool)


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
