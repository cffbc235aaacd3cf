"""`pause` and `resume` stop a run and let it go on; `retry` goes on from one that failed."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.commands.run import Full, Quiet
from retinue_cli.events import RunPrinter
from retinue_cli.following import detached, follow, result_of
from retinue_cli.results import FINAL, PAUSED, state_name
from retinue_cli.run_options import run_options
from retinue_cli.start_options import RequestId

if TYPE_CHECKING:
    from retinue.engine.v1 import run_pb2

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]


@calling
async def pause(
    call: Call,
    run_id: RunId,
    *,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever reads the run later.")] = "",
) -> None:
    """Ask a run to stop at the next safe point; what is under way there ends first."""
    output = call.output
    async with call.open_client() as client:
        run = await client.runs.pause(run_id, reason=reason)
    way_on = f"`retinue resume {run_id}{call.repeated()}` lets it go on"
    if output.as_json:
        output.object(run)
    elif run.state == PAUSED:
        output.line(f"{run_id} is paused: {way_on}")
    else:
        output.line(f"{run_id} pauses as soon as it can: {way_on}")


@calling
async def resume(call: Call, run_id: RunId) -> None:
    """Let a paused run go on."""
    output = call.output
    async with call.open_client() as client:
        run = await client.runs.resume(run_id)
    if output.as_json:
        output.object(run)
    elif run.state in FINAL:
        output.line(f"{run_id} has ended: {state_name(run.state)}")
    else:
        output.line(f"{run_id} goes on; `retinue watch {run_id}{call.repeated()}` follows it")


@calling
@taking("options", run_options)
def retry(
    call: Call,
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="The run that failed or was cancelled.", show_default=False)
    ],
    *,
    request_id: RequestId = None,
    options: "run_pb2.RunOptions",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow the new run to its end.")] = False,
    full: Full = False,
    quiet: Quiet = False,
) -> None:
    """Start a new run from the last good point of one that failed or was cancelled, and print its id.

    It runs the components as they are now; each option counts over that of the run before. With --watch the
    exit status is as of `retinue run`.
    """
    output = call.output
    printer = RunPrinter(output, full=full, quiet=quiet)

    async def start_and_follow() -> int:
        async with call.open_client() as client:
            started = await client.runs.retry(run_id, request_id=request_id, options=options)
            printer.run_id = started.run_id
            if not watch:
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
