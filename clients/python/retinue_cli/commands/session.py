"""`session label`, `delete` and `export`: what is done with one session."""

import asyncio
import contextlib
import os
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import FAILED, USAGE, CommandError
from retinue_cli.output import Output, json_line
from retinue_cli.pairs import labels_text, pairs_from
from retinue_cli.wording import count

app = typer.Typer(no_args_is_help=True, help="Label, delete or export a session.")

SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.", show_default=False)]


@app.command()
@calling
async def label(
    call: Call,
    session_id: SessionId,
    labels: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME=VALUE]...", help="Labels to set.", show_default=False),
    ] = None,
    *,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A label to take away; repeatable.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take away all labels that are not named here.")
    ] = False,
) -> None:
    """Add labels to a session, over those of the same name; the others stay. Without labels, show them."""
    given = pairs_from("a label", labels)
    output = call.output
    async with call.open_client() as client:
        session = await client.sessions.get(session_id)
        wanted = given if replace else {**session.labels, **given}
        for name in remove or ():
            if wanted.pop(name, None) is None:
                raise CommandError(f"session {session_id} has no label {name!r}", status=USAGE)
        if given or remove or replace:
            session = await client.sessions.update(session_id, wanted)
    if output.as_json:
        output.object(session)
    else:
        output.line(labels_text(session.labels) or "no labels")


@app.command()
@calling
def delete(
    call: Call,
    session_id: SessionId,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a session with all its messages and runs, for good."""
    if not yes and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError("there is nobody to ask here: --yes deletes without asking", status=USAGE)

    async def count_messages() -> str:
        async with call.open_client() as client:
            return count((await client.sessions.get(session_id)).message_count, "message")

    async def delete_it() -> int:
        async with call.open_client() as client:
            return await client.sessions.delete(session_id)

    if not yes:
        # Asked outside of the loop, which would keep Ctrl-C to itself.
        messages = asyncio.run(count_messages())
        if not typer.confirm(f"Delete session {session_id} with {messages} and all its runs?"):
            call.output.note("nothing is deleted")
            raise typer.Exit(FAILED)
    deleted = asyncio.run(delete_it())
    output = call.output
    if output.as_json:
        output.object({"session_id": session_id, "deleted_runs": deleted})
    else:
        output.line(f"{session_id} is deleted, with {count(deleted, 'run')}")


@app.command()
@calling
async def export(
    call: Call,
    session_id: SessionId,
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to; stdout where it is not set.")
    ] = None,
) -> None:
    """Write all of a session as JSON lines: the session, its messages, its runs."""
    async with call.open_client() as client, aclosing(client.sessions.export(session_id)) as pieces:  # type: ignore[type-var]
        if out is None:
            lines = Output(as_json=True)
            async for piece in pieces:
                lines.object(piece)
            return
        written = 0
        draft = out.with_name(f"{out.name}.{os.getpid()}")
        try:
            with draft.open("x", encoding="utf-8") as file:
                async for piece in pieces:
                    file.write(json_line(piece))
                    written += 1
            draft.replace(out)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink()
            raise
    output = call.output
    if output.as_json:
        output.object({"file": str(out), "lines": written})
    else:
        output.parts(("✓ ", "green"), (f"wrote {count(written, 'line')} to {out}", ""))
