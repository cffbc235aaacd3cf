"""`runs` and `sessions`: what has been run and said."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.output import Output, to_json
from retinue_cli.pairs import labels_text, pairs_from
from retinue_cli.results import STATES, state_name
from retinue_cli.wording import ago, clean, dollars, one_line, seconds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from retinue.client import Client
    from retinue.engine.v1 import run_pb2, session_pb2

Limit = Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="At most so many, the newest.")]

_STATES = {name: number for number, name in STATES.items()}
_WIDE = 100
_LARGEST_PAGE = 1000


@calling
async def runs(
    call: Call,
    *,
    session: Annotated[
        str, typer.Option("--session", "-s", metavar="ID", help="Only runs of this session.")
    ] = "",
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help=f"Only runs in this state, repeatable: {', '.join(_STATES)}."),
    ] = None,
    agent: Annotated[str, typer.Option(metavar="NAME", help="Only runs of this agent.")] = "",
    tree: Annotated[
        str, typer.Option(metavar="RUN", help="The runs inside this run, which are else left out.")
    ] = "",
    limit: Limit = 20,
) -> None:
    """List runs, the newest first. Runs inside others are listed with --tree."""
    states = [_state(each) for each in state or ()]
    output = call.output
    async with call.open_client() as client:
        if tree:
            # Fails where there is no such run; that of one inside another is its tree, too.
            tree = (await client.runs.get(tree)).root_run_id
        listed = client.runs.list(
            root_run_id=tree,
            session_id=session,
            states=states,  # type: ignore[arg-type]
            target_name=agent,
            page_size=min(limit, _LARGEST_PAGE),
        )
        found = await _first(listed, limit)
    if output.as_json:
        output.object({"runs": [to_json(run) for run in found]})
    elif not found:
        nothing = f"{tree} has no such runs inside" if tree else "No such runs here"
        asked = session or states or agent or tree
        output.line(nothing if asked else 'No runs here yet: `retinue run AGENT "message"` starts one')
    else:
        _show_runs(output, found)


def _show_runs(output: Output, found: "list[run_pb2.Run]") -> None:
    now = datetime.now(UTC)
    wide = output.console.width >= _WIDE
    headers = ["RUN", "STATE", "AGENT", "STARTED"]
    inside = any(run.path for run in found)
    headers += ["PLACE"] if inside else []
    headers += ["TOOK", "TOKENS", "COST", "MESSAGE"] if wide else []
    rows = []
    for run in found:
        row = [run.run_id, state_name(run.state), run.target.name, ago(_time(run.create_time), now)]
        row += [run.path] if inside else []
        if wide:
            row += [*_bill(run), one_line(run.message, 60)]
        rows.append(row)
    output.table(headers, rows)


def _bill(run: "run_pb2.Run") -> tuple[str, str, str]:
    if not run.HasField("result"):
        return "", "", ""
    result = run.result
    return (
        seconds(result.duration.seconds + result.duration.nanos / 1e9),
        f"{result.usage.input_tokens + result.usage.output_tokens:,}",
        dollars(result.cost.nano_usd, unknown=result.cost.unknown).removeprefix("cost "),
    )


@calling
async def sessions(
    call: Call,
    session_id: Annotated[
        str | None,
        typer.Argument(metavar="[SESSION]", help="Show this session's messages.", show_default=False),
    ] = None,
    *,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only sessions that have this label; repeatable."),
    ] = None,
    steps_of: Annotated[
        str, typer.Option(metavar="SESSION", help="The sessions of the steps of this workflow's session.")
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            "-n",
            min=1,
            metavar="N",
            help="At most so many sessions (20), or the last N messages (all).",
        ),
    ] = None,
) -> None:
    """List sessions, the newest first; or show what was said in one."""
    labels = pairs_from("--label", label)
    if (labels or steps_of) and session_id is not None:
        raise CommandError(
            "--label and --steps-of find sessions: leave them out where one is named", status=USAGE
        )
    output = call.output
    async with call.open_client() as client:
        if session_id is not None:
            await _messages(client, output, session_id, limit)
            return
        most = limit or 20
        listed = client.sessions.list(
            labels=labels, base_session_id=steps_of, page_size=min(most, _LARGEST_PAGE)
        )
        found = await _first(listed, most)
    if output.as_json:
        output.object({"sessions": [to_json(session) for session in found]})
    elif not found:
        output.line(_nothing_found(labels=bool(labels), steps_of=steps_of))
    else:
        _show_sessions(output, found)


def _nothing_found(*, labels: bool, steps_of: str) -> str:
    if steps_of:
        return f"No steps have a session that belongs to {steps_of}"
    if labels:
        return "No sessions here have these labels"
    return "No sessions here yet: `retinue chat AGENT` begins one"


def _show_sessions(output: Output, found: "list[session_pb2.Session]") -> None:
    now = datetime.now(UTC)
    headers = ["SESSION", "MESSAGES", "LAST"]
    labelled = any(session.labels for session in found)
    headers += ["LABELS"] if labelled else []
    rows = []
    for session in found:
        row = [session.session_id, str(session.message_count), ago(_time(session.update_time), now)]
        row += [labels_text(session.labels)] if labelled else []
        rows.append(row)
    output.table(headers, rows, flexible=0)


async def _messages(client: "Client", output: Output, session_id: str, limit: int | None) -> None:
    session = await client.sessions.get(session_id)
    found = [message async for message in client.sessions.messages(session_id, page_size=_LARGEST_PAGE)]
    found = found[-limit:] if limit else found
    if output.as_json:
        messages = [to_json(message) | {"message": _parsed(message.message_json)} for message in found]
        output.object({"session": to_json(session), "messages": messages})
        return
    run_id = ""
    for message in found:
        if message.run_id != run_id:
            run_id = message.run_id
            output.line(f"── {run_id} {_time(message.time):%Y-%m-%d %H:%M:%S} UTC", style="dim")
        _show_message(output, message)


def _show_message(output: Output, message: "session_pb2.SessionMessage") -> None:
    said = _parsed(message.message_json)
    role = str(said.get("role", "?"))
    style = {"user": "bold cyan", "assistant": "bold green", "tool": "bold yellow"}.get(role, "bold")
    text = _text(said.get("content"))
    if text:
        output.parts((f"{role}: ", style), (text, ""))
    for each in said.get("tool_calls") or ():
        called = each.get("function", {})
        output.parts(
            (f"{role}: ", style),
            (f"→ {called.get('name', '?')} {one_line(called.get('arguments', ''), 300)}", ""),
        )


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return clean(str(content or ""))


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {"role": "?", "content": text}
    return value if isinstance(value, dict) else {"role": "?", "content": text}


def _state(name: str) -> int:
    number = _STATES.get(name.lower().removeprefix("run_state_"))
    if number is None:
        raise CommandError(f"--state {name} is no state of a run: use {', '.join(_STATES)}", status=USAGE)
    return number


def _time(timestamp: Any) -> datetime:
    then: datetime = timestamp.ToDatetime(tzinfo=UTC)
    return then


async def _first(items: "AsyncIterator[Any]", most: int) -> list[Any]:
    found = []
    async for item in items:
        found.append(item)
        if len(found) == most:
            break
    return found
