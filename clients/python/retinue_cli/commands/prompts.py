"""`prompts`: what the prompts of an MCP server are, and one filled in."""

from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.servers import ServerName
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.output import to_json
from retinue_cli.pairs import pairs_from
from retinue_cli.wording import one_line

if TYPE_CHECKING:
    from retinue.mcphost.v1 import resource_pb2, tool_pb2

_SHORT = 300
_ROLES = {1: "user", 2: "assistant"}


@calling
async def prompts(
    call: Call,
    server: ServerName,
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="The prompt to fill in; all are listed without.")
    ] = "",
    *,
    arg: Annotated[
        list[str] | None,
        typer.Option("--arg", "-a", metavar="NAME=VALUE", help="One argument of the prompt; repeatable."),
    ] = None,
) -> None:
    """List the prompts of an MCP server, or fill one in.

    A server that does not run is started.
    """
    arguments = pairs_from("--arg", arg)
    if arguments and not name:
        raise CommandError("--arg needs the NAME of a prompt", status=USAGE)
    async with call.open_client() as client:
        if name:
            _show_filled(call, await client.contents.prompt(server, name, arguments))
            return
        found = [each async for each in client.contents.prompts(server)]
    if call.output.as_json:
        call.output.object({"prompts": [to_json(each) for each in found]})
        return
    if not found:
        call.output.line(f"{server} has no prompts")
    for prompt in found:
        takes = ", ".join(each.name if each.required else f"{each.name}?" for each in prompt.arguments)
        call.output.parts((prompt.name, "bold cyan"), (f"({takes})", "cyan"))
        if prompt.description:
            call.output.line(f"    {one_line(prompt.description, _SHORT)}", style="dim")


def _show_filled(call: Call, prompt: "resource_pb2.GetPromptResponse") -> None:
    if call.output.as_json:
        call.output.object(prompt)
        return
    for message in prompt.messages:
        call.output.line(_ROLES.get(message.role, ""), style="bold cyan")
        call.output.line(_content_text(message.content))


def _content_text(content: "tool_pb2.ToolContent") -> str:
    which = content.WhichOneof("part")
    if which == "blob":
        return f"[{content.blob.mime_type}, {len(content.blob.data)} bytes]"
    if which == "link":
        return f"[{content.link.name}]({content.link.uri})"
    return content.text
