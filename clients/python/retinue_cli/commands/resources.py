"""`resources`: what the resources of an MCP server are, and what one holds."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.servers import ServerName
from retinue_cli.output import to_json
from retinue_cli.wording import one_line

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.mcphost.v1 import resource_pb2

_SHORT = 300


@calling
async def resources(
    call: Call,
    server: ServerName,
    uri: Annotated[
        str, typer.Argument(metavar="[URI]", help="The resource to read; all are listed without.")
    ] = "",
) -> None:
    """List the resources and resource templates of an MCP server, or read one resource.

    A server that does not run is started. Bytes are written as they are where stdout is no terminal.
    """
    async with call.open_client() as client:
        if not uri:
            await _list(call, client, server)
            return
        contents = await client.contents.read(server, uri)
    if call.output.as_json:
        call.output.object({"contents": [to_json(each) for each in contents]})
        return
    for each in contents:
        if each.WhichOneof("contents") == "text":
            call.output.raw(each.text if each.text.endswith("\n") else f"{each.text}\n")
        elif sys.stdout.isatty():
            call.output.line(f"[{each.mime_type or 'bytes'}, {len(each.data)} bytes]", style="dim")
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(each.data)


async def _list(call: Call, client: "Client", server: str) -> None:
    found = [each async for each in client.contents.resources(server)]
    templates = [each async for each in client.contents.templates(server)]
    if call.output.as_json:
        call.output.object(
            {
                "resources": [to_json(each) for each in found],
                "templates": [to_json(each) for each in templates],
            }
        )
        return
    if not found and not templates:
        call.output.line(f"{server} has no resources")
    for resource in found:
        size = f", {resource.size_bytes} bytes" if resource.HasField("size_bytes") else ""
        _show(call, resource.uri, resource, f"{resource.mime_type}{size}")
    for template in templates:
        _show(call, template.uri_template, template, template.mime_type)


def _show(
    call: Call,
    address: str,
    what: "resource_pb2.Resource | resource_pb2.ResourceTemplate",
    kind: str,
) -> None:
    call.output.parts((address, "bold cyan"), (f"  {what.title or what.name}", ""), (f"  {kind}", "dim"))
    if what.description:
        call.output.line(f"    {one_line(what.description, _SHORT)}", style="dim")
