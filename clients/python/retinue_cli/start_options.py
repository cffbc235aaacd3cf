"""The options of a request to run something, beside its RunOptions: its place in the queue, labels, files."""

import mimetypes
from collections.abc import Mapping, Sequence
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from retinue_cli.failures import USAGE, CommandError
from retinue_cli.pairs import pairs_from
from retinue_cli.run_options import span

if TYPE_CHECKING:
    from retinue.engine.v1 import service_pb2

_PANEL = "Its turn"
_MOST_FILE_BYTES = 3 * 1024 * 1024
"""An engine takes no more in all; a larger file is not read."""

SessionId = Annotated[
    str,
    typer.Option(
        "--session", "-s", metavar="ID", help="The session to go on with, or to begin under this id."
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", "-f", metavar="PATH", help="An image or file for the model; repeatable."),
]
RequestId = Annotated[
    str | None, typer.Option(metavar="ID", help="The same id finds the same run again: safe to repeat.")
]


class Busy(StrEnum):
    """What to do where the session has a run that has not ended."""

    ENQUEUE = "enqueue"
    REJECT = "reject"
    INTERRUPT = "interrupt"


class StartOptions(NamedTuple):
    """As `Runs.start` takes them."""

    session_busy: "service_pb2.SessionBusyPolicy.ValueType"
    priority: int
    queue_timeout: timedelta | None
    labels: Mapping[str, str]


def start_options(
    *,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="NAME=VALUE", help="A word to find the run by; repeatable."),
    ] = None,
    busy: Annotated[
        Busy | None,
        typer.Option(
            metavar="POLICY",
            rich_help_panel=_PANEL,
            help="Where the session has a run that has not ended: `enqueue` (the default) waits for it, "
            "`reject` gives up, `interrupt` cancels it.",
        ),
    ] = None,
    priority: Annotated[
        int,
        typer.Option(
            min=-100, max=100, metavar="N", rich_help_panel=_PANEL, help="Higher goes first in the queue."
        ),
    ] = 0,
    queue_timeout: Annotated[timedelta | None, span("How long it may wait for its turn.", _PANEL)] = None,
) -> StartOptions:
    """What was given, and the defaults of the proto."""
    from retinue.engine.v1 import service_pb2

    return StartOptions(
        session_busy=service_pb2.SessionBusyPolicy.Value(
            f"SESSION_BUSY_POLICY_{busy.name if busy else 'UNSPECIFIED'}"
        ),
        priority=priority,
        queue_timeout=queue_timeout,
        labels=pairs_from("--label", label),
    )


def read_files(paths: Sequence[Path] | None) -> "list[service_pb2.InlineFile]":
    """Files with their bytes and the media types that their names, or else their bytes, suggest."""
    from retinue.engine.v1 import service_pb2

    files = []
    for path in paths or ():
        if path.is_file() and path.stat().st_size > _MOST_FILE_BYTES:
            raise CommandError(
                f"--file {path} has {path.stat().st_size:,} bytes: a run takes {_MOST_FILE_BYTES:,} in all",
                status=USAGE,
            )
        data = path.read_bytes()
        mime_type = mimetypes.guess_type(path.name)[0] or _type_of(data)
        files.append(service_pb2.InlineFile(mime_type=mime_type, name=path.name, data=data))
    return files


def _type_of(data: bytes) -> str:
    try:
        data.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain"
