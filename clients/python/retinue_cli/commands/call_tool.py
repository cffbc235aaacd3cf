"""`call`: one call of one tool of an MCP server."""

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.servers import ServerName
from retinue_cli.failures import FAILED, USAGE, CommandError
from retinue_cli.inputs import arguments_of
from retinue_cli.output import Output
from retinue_cli.pairs import pairs_from
from retinue_cli.wording import compact_json

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.mcphost.v1 import tool_pb2


@calling
async def call_tool(
    call: Call,
    server: ServerName,
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="The tool.", show_default=False)],
    *,
    arg: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            "-a",
            metavar="NAME=VALUE",
            help="One argument: JSON, or text where its schema allows text; repeatable.",
        ),
    ] = None,
    json_args: Annotated[
        str, typer.Option("--json-args", metavar="JSON", help="All arguments, as one JSON object.")
    ] = "",
) -> None:
    """Call a tool of an MCP server, which is started where it does not run.

    Progress is shown on stderr. Exit status 1 where the tool says that it failed.
    """
    if arg and json_args:
        raise CommandError("give --arg or --json-args, not both", status=USAGE)
    given = pairs_from("--arg", arg)
    result: tool_pb2.ToolResult | None = None
    async with call.open_client() as client:
        if given:
            arguments = json.dumps(await _typed(client, server, tool, given))
        else:
            arguments = arguments_of(json_args or "{}")
        async with aclosing(client.tools.call(server, tool, arguments)) as updates:  # type: ignore[type-var]
            async for update in updates:
                if update.HasField("progress"):
                    call.output.note(_progress(update.progress))
                elif update.HasField("result"):
                    result = update.result
    if result is None:
        raise CommandError(f"the MCP host ended the call of {tool} without a result: try again")
    if call.output.as_json:
        call.output.object(result)
    else:
        _show(call.output, result)
    if result.is_error:
        raise typer.Exit(FAILED)


async def _typed(client: "Client", server: str, tool: str, given: dict[str, str]) -> dict[str, Any]:
    """The arguments as the tool's schema has them."""
    from retinue.errors import error_from_facts
    from retinue.mcphost.v1 import tool_pb2

    found, failures = await client.tools.list([tool_pb2.ServerRef(name=server)])
    for each in failures:
        failure = each.failure
        raise error_from_facts(failure.reason, failure.message, failure.metadata)
    texts = (each.input_schema_json for each in found if each.name == tool)
    schema: dict[str, Any] = json.loads(next(texts, "") or "{}")
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    return {name: _value(name, text, properties.get(name)) for name, text in given.items()}


def _value(name: str, text: str, schema: Any) -> Any:
    wanted = schema.get("type") if isinstance(schema, dict) else None
    if wanted == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if wanted is None or "string" in wanted:
            return text
        raise CommandError(f"--arg {name} has to be JSON, of type {wanted}", status=USAGE) from None


def _progress(progress: "tool_pb2.ToolProgress") -> str:
    total = f"/{progress.total:g}" if progress.HasField("total") else ""
    return f"{progress.progress:g}{total} {progress.message}".rstrip()


def _show(output: Output, result: "tool_pb2.ToolResult") -> None:
    style = "red" if result.is_error else ""
    for content in result.content:
        part = content.WhichOneof("part")
        if part == "text":
            output.line(compact_json(content.text), style=style)
        elif part == "blob":
            output.line(f"[{content.blob.mime_type}, {len(content.blob.data)} bytes]", style="dim")
        elif part == "link":
            output.line(f"[{content.link.name}]({content.link.uri})", style="dim")
    if not result.content and result.structured_json:
        output.line(result.structured_json, style=style)
