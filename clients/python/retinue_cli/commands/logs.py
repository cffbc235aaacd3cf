"""`logs`: what an MCP server logs, on its stderr and by MCP."""

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.servers import ServerName
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.output import Output

if TYPE_CHECKING:
    from retinue.mcphost.v1 import server_pb2

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""MCP's, the least grave first; in the proto's order, which begins with 1."""
_STYLES = {"warning": "yellow", "error": "red", "critical": "red", "alert": "red", "emergency": "red"}


@calling
async def logs(
    call: Call,
    server: ServerName,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    level: Annotated[
        str,
        typer.Option(metavar="LEVEL", help=f"The least grave MCP messages to show: {', '.join(LEVELS)}."),
    ] = "info",
) -> None:
    """Show what an MCP server logs: its stderr, and the messages that it sends by MCP."""
    if level not in LEVELS:
        raise CommandError(f"--level {level} is none of {', '.join(LEVELS)}", status=USAGE)
    from retinue.mcphost.v1 import server_pb2

    number = server_pb2.LogLevel.ValueType(LEVELS.index(level) + 1)
    async with call.open_client() as client:
        log = client.servers.log(server, level=number, follow=follow)
        async with aclosing(log) as responses:  # type: ignore[type-var]
            async for response in responses:
                if response.dropped:
                    call.output.note(f"{response.dropped} older entries are no longer kept")
                for entry in response.entries:
                    _show(call.output, entry)


def _show(output: Output, entry: "server_pb2.ServerLogEntry") -> None:
    if output.as_json:
        output.object(entry)
        return
    time = entry.time.ToDatetime().strftime("%H:%M:%S")
    level = LEVELS[entry.level - 1] if entry.level else "stderr"
    logger = f" {entry.logger}:" if entry.logger else ""
    output.parts((f"{time} ", "dim"), (f"{level}{logger} ", _STYLES.get(level, "cyan")), (entry.message, ""))
