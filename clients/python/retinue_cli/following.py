"""Following one run to its end, and what to say when a person stops following."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

import typer

from retinue_cli.asking import open_asker
from retinue_cli.call import Call
from retinue_cli.events import RunPrinter
from retinue_cli.failures import CANCELLED as STATUS_CANCELLED
from retinue_cli.failures import FAILED as STATUS_FAILED
from retinue_cli.failures import INTERRUPTED
from retinue_cli.output import Output
from retinue_cli.results import CANCELLED, FAILED, SUCCEEDED, bill, state_name, state_style

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.engine.v1 import event_pb2

_STATUS = {SUCCEEDED: 0, FAILED: STATUS_FAILED, CANCELLED: STATUS_CANCELLED}


async def follow(
    call: Call,
    client: "Client",
    run_id: str,
    printer: RunPrinter,
    *,
    after_sequence: int = 0,
    interactive: bool = False,
) -> None:
    """Print a run's events after a given one until the run has ended.

    What it asks people is asked right here where that is wanted and there is a terminal; else the commands
    that answer it are shown.
    """
    printer.run_id, printer.sequence = run_id, after_sequence
    if printer.quiet:
        settings = (await client.runs.get(run_id)).settings
        printer.only_structured = bool(settings.output_schema_json)
    events: AsyncIterator[event_pb2.RunEvent] = client.runs.watch(run_id, after_sequence=after_sequence)
    async with (
        open_asker(call, client, printer, interactive=interactive) as asker,
        aclosing(events) as open_events,  # type: ignore[type-var]
    ):
        async for event in open_events:
            printer.event(event)
            asker.hear(event)


async def result_of(client: "Client", run_id: str, printer: RunPrinter, output: Output) -> int:
    """The exit status of a run whose events have been printed.

    A watch that began after the last event saw no result: it is fetched and shown.
    """
    if printer.result is None:
        run = await client.runs.get(run_id)
        printer.result = run.result
        output.parts(
            (f"{run_id} has ended: ", ""),
            (state_name(run.state), state_style(run.state)),
            (f" · {bill(run.result)}", "dim"),
        )
    return _STATUS.get(printer.result.state, STATUS_FAILED)


def detached(call: Call, printer: RunPrinter) -> typer.Exit:
    """Say that the run goes on without this terminal, and how to come back to it."""
    with contextlib.suppress(BrokenPipeError):
        printer.end_line()
    after = f" --after {printer.sequence}" if printer.sequence else ""
    typer.echo(
        f"Detached. {printer.run_id} goes on.\n"
        f"  watch it:   retinue watch {printer.run_id}{after}{call.repeated()}\n"
        f"  cancel it:  retinue cancel {printer.run_id}{call.repeated()}",
        err=True,
    )
    return typer.Exit(INTERRUPTED)
