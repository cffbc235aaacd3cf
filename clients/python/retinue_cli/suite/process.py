"""One service as a child process: started, known to be ready by its first line, stopped for certain."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retinue_cli.wording import seconds

READY_TIMEOUT_S = 60.0
"""From start to the ready line. It is there within a second or two; a loaded machine may take longer."""

STOP_TIMEOUT_S = 30.0
"""From SIGTERM to SIGKILL: above the time that a service itself allows for its calls and for closing."""

_SHOWN_LOG_LINES = 12
_TAIL_BYTES = 16_384
_LONGEST_LINE = 1024 * 1024


class StartError(Exception):
    """A service that did not become ready; its text ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a process that says on stdout when it is ready."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path


class ServiceProcess:
    """A child in a session of its own: the terminal's Ctrl-C does not reach it.

    Its stdin is a pipe, and it is told to stop when that ends: should this process be killed, nothing is left
    behind.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.name = launch.name
        self.address = ""
        """As its ready line says."""
        self._process: asyncio.subprocess.Process | None = None
        self._drain: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """Of the process that runs now or ran last."""
        return self._process.pid if self._process else None

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises StartError, and nothing runs then."""
        if self._stopped:
            raise StartError(f"the {self.name} is stopped")
        offset = _size(self.launch.log_path)
        with self.launch.log_path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.launch.command,
                env={**self.launch.environment, "RETINUE_STOP_ON_STDIN_EOF": "1"},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                limit=_LONGEST_LINE,
            )
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await self._read_ready_line(self._process)
        except TimeoutError:
            await self.kill()
            why = f"the {self.name} was not ready within {seconds(READY_TIMEOUT_S)}"
            raise StartError(_with_log(why, self.launch.log_path, offset)) from None
        if not self.address:
            status = await self._process.wait()
            why = f"the {self.name} did not start ({exit_words(status)})"
            raise StartError(_with_log(why, self.launch.log_path, offset))

    async def _read_ready_line(self, process: asyncio.subprocess.Process) -> None:
        """Read stdout to the ready line, the rest goes nowhere. No address where it ends before."""
        stdout = process.stdout
        self.address = ""
        while stdout is not None and (line := await stdout.readline()):
            with contextlib.suppress(ValueError):
                data = json.loads(line)
                if isinstance(data, dict) and "ready" in data:
                    self.address = str(data.get("address", ""))
                    self._drain = asyncio.create_task(_read_to_end(stdout), name=f"stdout of the {self.name}")
                    return

    async def wait(self) -> int:
        """Wait for its end and return its status; negative for a signal."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        await self._drained()
        return status

    async def stop(self) -> bool:
        """Ask it to stop and see that it ends, after a time by force; False where that was needed."""
        self._stopped = True
        process = self._process
        if process is None or process.returncode is not None:
            await self._drained()
            return True
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                status = await process.wait()
        except TimeoutError:
            await self.kill()
            return False
        self._sweep()
        await self._drained()
        return status != -signal.SIGKILL

    def force(self) -> None:
        """End it and all that it started, at once and for good."""
        self._stopped = True
        self._end_by_force()

    def _end_by_force(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        below = descendants(self._process.pid)
        self._sweep()
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    async def kill(self) -> None:
        """End it and all that it started, at once, and wait until it is gone."""
        self._end_by_force()
        if self._process is not None:
            await self._process.wait()
        await self._drained()

    def _sweep(self) -> None:
        # Its process group: what it started and left in it.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _drained(self) -> None:
        """End the reading of stdout: a grandchild may hold the pipe for longer than the service lives."""
        drain, self._drain = self._drain, None
        if drain is not None:
            drain.cancel()
            await asyncio.wait([drain])


async def _read_to_end(stdout: asyncio.StreamReader) -> None:
    while await stdout.read(65_536):
        pass


def descendants(pid: int) -> list[int]:
    """The processes below one, children before grandchildren; none where the system has no /proc."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        children = below.get(queue.pop(0), [])
        found += children
        queue += children
    return found


def exit_words(status: int) -> str:
    """A process's end in words: `exit status 1`, `killed by SIGKILL`."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _with_log(why: str, log_path: Path, offset: int) -> str:
    """What went wrong, followed by the log's last lines since an offset."""
    try:
        with log_path.open("rb") as log:
            log.seek(max(offset, _size(log_path) - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_SHOWN_LOG_LINES:]
    except OSError:
        lines = []
    if not lines:
        return f"{why} and said nothing; its log is {log_path}"
    return "\n".join([f"{why}; the last lines of {log_path}:", *(f"  {line}" for line in lines)])
