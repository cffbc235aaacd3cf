"""Runs the command; what goes wrong becomes a line and a status."""

import sys
from collections.abc import Sequence

import typer

from retinue_cli.app import app
from retinue_cli.failures import FAILED, INTERRUPTED, USAGE, report
from retinue_cli.output import silence

# Typer keeps the class for itself; BadParameter is one of its kinds.
_USAGE_ERROR = typer.BadParameter.__mro__[1]


def run_command(given: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    as_json = "--json" in given
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal cannot show must not end the command.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        status = app(list(given), prog_name="retinue", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing is left to be flushed to them at the end.
        silence()
        return FAILED
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("\n")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last place to turn it into words
        if isinstance(error, _USAGE_ERROR):
            return _usage(error)
        return report(error, as_json=as_json)
    return status if isinstance(status, int) else 0


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "retinue"
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    if text:  # nothing is said where no command was given: the help has been printed
        end = "" if text.endswith("?") else ":"
        sys.stderr.write(f"error: {text.rstrip('.')}{end} `{command} --help` shows how\n")
    return USAGE
