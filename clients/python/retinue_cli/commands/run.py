"""`run` starts a run and follows it; `watch` follows one that is there; `cancel` ends one."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.events import RunPrinter
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.following import detached, follow, result_of
from retinue_cli.results import FINAL, state_name
from retinue_cli.run_options import run_options
from retinue_cli.start_options import Files, RequestId, SessionId, StartOptions, read_files, start_options

if TYPE_CHECKING:
    from retinue.engine.v1 import run_pb2

Full = Annotated[
    bool, typer.Option("--full", help="Show what models think, and arguments and results of tools in full.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the model's text and nothing else.")]


@calling
@taking("start", start_options)
@taking("options", run_options)
def run(
    call: Call,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="What to run.", show_default=False)],
    message: Annotated[
        str,
        typer.Argument(
            metavar="MESSAGE", help="What to ask it; `-` reads it from stdin.", show_default=False
        ),
    ],
    *,
    session: SessionId = "",
    file: Files = None,
    request_id: RequestId = None,
    start: StartOptions,
    options: "run_pb2.RunOptions",
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Start it, print its id, and end.")] = False,
    full: Full = False,
    quiet: Quiet = False,
) -> None:
    """Run an agent and show what it does, as it does it. What it asks is asked in the terminal.

    Ctrl-C detaches: the run goes on. Exit status: 0 succeeded, 1 failed, 2 usage, 3 cancelled, 130 detached.
    """
    text = sys.stdin.read() if message == "-" else message
    files = read_files(file)
    if not text.strip() and not files:
        raise CommandError("the message is empty: say what the agent should do", status=USAGE)
    output = call.output
    printer = RunPrinter(output, full=full, quiet=quiet)

    async def start_and_follow() -> int:
        async with call.open_client() as client:
            started: run_pb2.Run = await client.runs.start(
                agent,
                text,
                session_id=session,
                request_id=request_id,
                options=options,
                files=files,
                **start._asdict(),
            )
            printer.run_id = started.run_id
            if detach:
                output.object(started) if output.as_json else output.line(started.run_id)
                return 0
            await follow(call, client, started.run_id, printer, interactive=not quiet)
            return await result_of(client, started.run_id, printer, output)

    try:
        status = asyncio.run(start_and_follow())
    except KeyboardInterrupt:
        if not printer.run_id:
            raise
        raise detached(call, printer) from None
    raise typer.Exit(status)


@calling
def watch(
    call: Call,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)],
    *,
    after: Annotated[
        int, typer.Option("--after", min=0, metavar="N", help="Begin after event N; 0 begins with the first.")
    ] = 0,
    full: Full = False,
    quiet: Quiet = False,
) -> None:
    """Follow a run from any event to its end, whether it runs or has ended.

    Ctrl-C stops watching, not the run. Exit status as of `retinue run`.
    """
    output = call.output
    printer = RunPrinter(output, full=full, quiet=quiet)

    async def look() -> int:
        async with call.open_client() as client:
            # Fails at once where the engine or the run is not there; the watch itself tries for a while.
            await client.runs.get(run_id)
            await follow(call, client, run_id, printer, after_sequence=after)
            return await result_of(client, run_id, printer, output)

    try:
        status = asyncio.run(look())
    except KeyboardInterrupt:
        if not printer.run_id:
            raise
        raise detached(call, printer) from None
    raise typer.Exit(status)


@calling
async def cancel(
    call: Call,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)],
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever reads the run later.")] = "",
) -> None:
    """Ask a run to end: its model calls and tool calls are cancelled."""
    output = call.output
    async with call.open_client() as client:
        run = await client.runs.cancel(run_id, reason=reason)
    if output.as_json:
        output.object(run)
    elif run.state in FINAL:
        output.line(f"{run_id} has ended: {state_name(run.state)}")
    else:
        output.line(f"{run_id} ends soon; `retinue watch {run_id}` shows when")
