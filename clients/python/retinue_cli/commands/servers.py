"""`servers` shows MCP servers with the state of their connections; `restart` restarts one."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.output import Output, to_json
from retinue_cli.pairs import pairs_from
from retinue_cli.wording import ago, count, one_line

if TYPE_CHECKING:
    from retinue.mcphost.v1 import server_pb2

ServerName = Annotated[str, typer.Argument(metavar="SERVER", help="The MCP server.", show_default=False)]

NOT_USED = "not used yet"
_STATES = {1: "connecting", 2: "ready", 3: "closed", 4: "failed", 5: "broken"}
_SHORT = 200
_LOGINS = {1: "logged out", 2: "login required", 3: "logged in"}


@calling
async def servers(
    call: Call,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SERVER]...", help="Which MCP servers; all where none is named.", show_default=False
        ),
    ] = None,
    *,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only those with this label; repeatable."),
    ] = None,
) -> None:
    """Show MCP servers: whether they are connected, how often they were restarted, why they failed last."""
    async with call.open_client() as client:
        if names:
            found = [await client.servers.get(name) for name in names]
        else:
            found, _ = await client.servers.list(labels=pairs_from("--label", label))
    if call.output.as_json:
        call.output.object({"servers": [to_json(each) for each in found]})
    elif not found:
        call.output.line("No MCP servers here")
    else:
        _show(call.output, found)


@calling
async def restart(call: Call, server: ServerName) -> None:
    """Close an MCP server's connections and connect it again; calls under way on it fail."""
    async with call.open_client() as client:
        restarted = await client.servers.restart(server)
    if call.output.as_json:
        call.output.object(restarted)
    else:
        _show(call.output, [restarted])


def _show(output: Output, found: "list[server_pb2.Server]") -> None:
    now = datetime.now(UTC)
    rows: list[list[str]] = []
    for server in found:
        head, first = [server.name, str(server.version)], len(rows)
        if not server.connections:
            rows.append([*head, "", NOT_USED, "", "", "", ""])
        for connection in server.connections:
            rows.append([*head, *_connection(connection, now)])
            head = ["", ""]
        rows[first][-1] = _LOGINS.get(server.login.state, "")
    headers = ["SERVER", "VERSION", "SCOPE", "STATE", "CALLS", "RESTARTS", "LAST FAILURE", "LOGIN"]
    if not any(server.HasField("login") for server in found):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    output.table(headers, rows)


def _connection(connection: "server_pb2.ServerConnection", now: datetime) -> list[str]:
    state = _STATES.get(connection.state, "unknown")
    since = ago(connection.since.ToDatetime(tzinfo=UTC), now)
    calls = str(connection.calls)
    if connection.queued_calls:
        calls += f" + {connection.queued_calls} waiting"
    failure = ""
    if connection.HasField("last_failure"):
        times = f"{count(connection.failures, 'time')} in a row: " if connection.failures > 1 else ""
        failure = times + one_line(connection.last_failure.message, _SHORT)
    return [
        connection.scope_id or "shared",
        f"{state}, {since}",
        calls,
        str(connection.restarts),
        failure,
        "",
    ]
