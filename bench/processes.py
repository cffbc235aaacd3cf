"""Processes of a measurement: started on a core, counted by /proc, ended with the block that started them."""

import contextlib
import functools
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The repository."""

START_S = 60.0
"""Longest from start to the first line of output."""
STOP_S = 20.0

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class BenchError(Exception):
    """A measurement that is not worth its figures: something failed or answered wrongly."""


@functools.cache
def cores() -> tuple[int, int] | None:
    """The core of what is measured and the core of all else; None where there are not two to pin to.

    Said once: a process that has moved to one of them sees no other.
    """
    if not hasattr(os, "sched_getaffinity"):
        return None
    free = sorted(os.sched_getaffinity(0))
    return (free[0], free[1]) if len(free) > 1 else None


def pin() -> tuple[int | None, int | None]:
    """Move this process, and what it starts, to the core of all else; return both cores, where there are."""
    measured, rest = cores() or (None, None)
    if rest is not None:
        os.sched_setaffinity(0, {rest})
    return measured, rest


def cpu_s(pid: int) -> float:
    """Processor time of a process so far, all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def rss_mib(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 2**20


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@dataclass
class Process:
    """A process of the measurement."""

    name: str
    process: "subprocess.Popen[str]" = field(repr=False)
    first_line: str = ""
    """What it said first: that it is ready, and where."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_first_line(self) -> None:
        """Wait for its first line. Raises BenchError where it ends without one."""
        assert self.process.stdout is not None
        if select.select([self.process.stdout], [], [], START_S)[0]:
            self.first_line = self.process.stdout.readline()
        if not self.first_line:
            raise BenchError(f"{self.name} did not start: see its output above")

    def ask(self, line: str, within_s: float) -> dict[str, Any]:
        """Write a line and read its answer, a line of JSON. Raises BenchError where it ends or takes long."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            if select.select([self.process.stdout], [], [], within_s)[0]:
                answer = self.process.stdout.readline()
        if not answer:
            raise BenchError(f"{self.name} did not answer {line!r}: see its output above")
        try:
            found: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise BenchError(f"{self.name} answered {line!r} with {answer!r}") from None
        return found

    def check(self) -> None:
        """Raise BenchError where it has ended."""
        status = self.process.poll()
        if status is not None:
            raise BenchError(f"{self.name} ended with status {status}: see its output above")


@contextmanager
def started(
    name: str,
    arguments: Sequence[str],
    *,
    core: int | None,
    environment: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    python: str = sys.executable,
) -> Iterator[Process]:
    """Start `python ARGUMENTS` on a core; leaving ends it."""
    popen = subprocess.Popen(
        [python, *arguments],
        cwd=cwd,
        env={**_environment(), **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C reaches this process alone, which ends the others in order.
        start_new_session=True,
    )
    # From outside, and before it has threads: a function between fork and exec would make gRPC's handlers of
    # a fork run in the child.
    if core is not None:
        os.sched_setaffinity(popen.pid, {core})
    process = Process(name, popen)
    try:
        yield process
    finally:
        _stop(popen)


def _environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
    own = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    return {**own, "PYTHONPATH": path}


def _stop(popen: "subprocess.Popen[str]") -> None:
    popen.terminate()
    try:
        popen.wait(STOP_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        # What was written for it and not read dies with it.
        with contextlib.suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


@dataclass
class Usage:
    """Processor time of processes between two moments, by name."""

    pids: Mapping[str, Sequence[int]]
    _before: dict[str, float] = field(default_factory=dict)
    _start: float = 0.0

    def begin(self) -> None:
        """Note where the counts stand."""
        self._before = self._now()
        self._start = time.perf_counter()

    def end(self) -> tuple[float, dict[str, float]]:
        """Seconds since `begin`, and the processor seconds of each name in them."""
        elapsed = time.perf_counter() - self._start
        return elapsed, {name: used - self._before[name] for name, used in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: sum(map(cpu_s, pids)) for name, pids in self.pids.items()}
