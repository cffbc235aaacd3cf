"""`dev test`: runs tests of agents against services of their own, where a script plays every model."""

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from retinue_cli.failures import USAGE, CommandError
from retinue_cli.project import MODEL_SCRIPT, project_folder
from retinue_cli.suite.bench import Bench
from retinue_cli.suite.launching import find_script
from retinue_cli.suite.process import descendants
from retinue_cli.suite.services import SERVICES

_END_WITHIN_S = 5.0
"""From each word to the tests to end to the next, stronger one."""


def run_tests(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="What runs the tests: `pytest -q`.", show_default=False),
    ],
    *,
    project: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The project; else the nearest folder upward with retinue.yaml."),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"What the models say; else the project's {MODEL_SCRIPT}."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="The namespace whose llms the script plays.")
    ] = "default",
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the services' data and logs here; else they are deleted."),
    ] = None,
) -> None:
    """Run tests of a project's agents: real services, real tools, and models that say what a script says.

    Services are started on free ports with nothing stored, and the command finds them by its environment
    (RETINUE_ENGINE_ADDRESS and so on; RETINUE_MODEL_URL is the scripted model's). Other RETINUE_ variables of
    this shell do not count. The exit status is that of the command.
    """
    for service in SERVICES:
        service.check_installed()
    folder = project_folder(project)
    played = find_script(folder, script, wanted=True)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise CommandError(f"{keep} is not empty: tests begin with nothing stored")
    with tempfile.TemporaryDirectory(prefix="retinue-test-") as temporary:
        bench = Bench(folder, played, namespace, (keep or Path(temporary)).resolve())
        status = asyncio.run(_Tests(bench, command).run())
    raise typer.Exit(status)


class _Tests:
    """The tests that run against a bench's services."""

    def __init__(self, bench: Bench, command: Sequence[str]) -> None:
        self._bench = bench
        self._command = command

    async def run(self) -> int:
        """Run them, with what they need to find the services; their exit status."""
        if shutil.which(self._command[0], path=self._bench.path) is None:
            raise CommandError(
                f"there is no program {self._command[0]}: name what runs the tests", status=USAGE
            )
        return await self._bench.run(self._run_tests)

    async def _run_tests(self) -> int:
        process = await asyncio.create_subprocess_exec(*self._command, env=self._bench.environment)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            await self._end_tests(process)
            raise
        return status if status >= 0 else 128 - status

    async def _end_tests(self, process: asyncio.subprocess.Process) -> None:
        """See that the tests end, and what they started."""
        tree = [process.pid, *descendants(process.pid)]
        if self._bench.stopped_by == signal.SIGINT:
            # Ctrl-C in a terminal has told them, too: they may say how far they came.
            await _ended(process)
        _tell(tree, signal.SIGTERM)
        await _ended(process)
        _tell(tree, signal.SIGKILL)
        await process.wait()


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Wait for a process's end, for a while."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_END_WITHIN_S):
            await process.wait()


def _tell(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
