"""`dev`: the scripted model by itself, for demos and tests; and tests of agents."""

import asyncio
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.commands import dev_test
from retinue_cli.failures import CommandError
from retinue_cli.suite.ports import split_address

app = typer.Typer(no_args_is_help=True, help="Tools for development.")
app.command("test", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(
    dev_test.run_tests
)


@app.command("model")
def model(
    *,
    script: Annotated[Path, typer.Option(metavar="FILE", help="The script, YAML.", show_default=False)],
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = None,
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen, in full.")
    ] = "127.0.0.1:7410",
    as_json: Annotated[bool, typer.Option("--json", help="Say in JSON when it is ready.")] = False,
) -> None:
    """Serve the OpenAI chat-completions protocol from a script.

    It is no language model: every answer stands in the script.
    """
    host, asked = split_address(address, "--address")
    asked = asked if port is None else port

    def on_ready(base_url: str) -> None:
        if as_json:
            typer.echo(
                json.dumps({"ready": "model", "address": base_url, "pid": os.getpid(), "scripted": True})
            )
        else:
            typer.echo(f"A scripted model, not a real one: it answers as {script} says.")
            typer.echo(f"Give an llm `protocol: openai_chat` and `base_url: {base_url}`. Ctrl-C stops it.")

    asyncio.run(_serve(script, host, asked, on_ready))


async def _serve(script: Path, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    try:
        from retinue_cli.scripted_model import ScriptError, serve_scripted_model
    except ModuleNotFoundError as error:
        raise CommandError(
            f"the scripted model needs {error.name}, which is not installed: `pip install 'retinue[cli]'`"
        ) from None
    serving = asyncio.create_task(serve_scripted_model(script, host, port, on_ready))
    stopped = asyncio.Event()

    def stop() -> None:
        stopped.set()
        serving.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    if os.environ.get("RETINUE_STOP_ON_STDIN_EOF") == "1":
        _stop_at_end_of_stdin()
    await asyncio.wait([serving])
    if serving.cancelled() and stopped.is_set():
        return
    try:
        serving.result()
    except ScriptError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise CommandError(
            f"{host}:{port} is taken: choose another with --port, or stop what is there"
        ) from None


def _stop_at_end_of_stdin() -> None:
    """Whoever started this holds the other end of stdin; when they are gone, this goes too."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stdin", daemon=True).start()
