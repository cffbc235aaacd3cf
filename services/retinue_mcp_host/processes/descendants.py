"""Finds every process that a server's process has brought about, wherever it went, and signals it.

A process group is left with setsid, a parent by a double fork, an environment by wiping it. What all
descendants keep is a resource limit: the soft limit of RLIMIT_LOCKS, which Linux has ignored since 2.4.25, is
set to a number that is the server's own. Without /proc (not Linux) only the process group is known.
"""

import contextlib
import os
import resource
import secrets
import signal
import time
from pathlib import Path
from typing import NamedTuple

_RLIMIT_LOCKS = 10
"""Linux's number (asm-generic/resource.h); the module `resource` has no name for it."""
_TAG_BITS = 62
_LIMIT_NAME = b"Max file locks"
_PROC = Path("/proc")
_FRESH_S = 0.01
"""How long one look at all processes serves all who look: servers are closed side by side."""


class _Process(NamedTuple):
    pid: int
    parent: int
    group: int
    start: bytes
    """When it was started; with the pid it names one process for ever."""
    is_running: bool
    """Not where it only waits to be reaped by its parent."""


class _ProcessTable:
    """All processes of the machine and their tags; a tag is read once for each process."""

    def __init__(self) -> None:
        self._time = float("-inf")
        self._processes: list[_Process] = []
        self._tags: dict[tuple[int, bytes], int] = {}

    def look(self) -> list[_Process]:
        """The processes now, or a moment ago."""
        now = time.monotonic()
        if now - self._time > _FRESH_S:
            self._time = now
            self._processes = [each for each in _processes() if each.is_running]
            here = {(each.pid, each.start) for each in self._processes}
            self._tags = {key: tag for key, tag in self._tags.items() if key in here}
        return self._processes

    def tag(self, process: _Process) -> int:
        """The tag of a process; 0 where it has none."""
        key = (process.pid, process.start)
        tag = self._tags.get(key)
        if tag is None:
            tag = self._tags[key] = _tag_of(process.pid)
        return tag


_TABLE = _ProcessTable()


def _tag_process(pid: int) -> int:
    """Mark a process that has just been started; 0 where that is impossible."""
    tag = secrets.randbits(_TAG_BITS) | 1 << (_TAG_BITS - 1)
    try:
        _, hard = resource.prlimit(pid, _RLIMIT_LOCKS)
        resource.prlimit(pid, _RLIMIT_LOCKS, (tag, hard))
    except (AttributeError, OSError, ValueError):
        return 0
    return tag


class Descendants:
    """What one server's process has brought about, itself included. Made right after its start."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tag = _tag_process(pid)

    def running(self) -> set[int]:
        """Those that run now. One that only waits to be reaped does not."""
        if not _PROC.joinpath("self", "stat").exists():
            return {self._pid} if _group_exists(self._pid) else set()
        processes = _TABLE.look()
        found = {
            each.pid
            for each in processes
            if each.group == self._pid or (self._tag and _TABLE.tag(each) == self._tag)
        }
        # Where tags can not be set, children of what was found are all that can be found beside the group.
        while more := {each.pid for each in processes if each.parent in found} - found:
            found |= more
        return found

    def signal(self, number: signal.Signals) -> bool:
        """Send all of them a signal; False where none is left."""
        found = self.running()
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(found)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _processes() -> list[_Process]:
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(_PROC):
            if not entry.name.isdigit():
                continue
            try:
                stat = Path(entry.path, "stat").read_bytes()
            except OSError:
                continue
            # `pid (name) state parent group … start …`; the name may hold spaces and parentheses (proc(5)).
            fields = stat.rpartition(b")")[2].split()
            state, parent, group, start = fields[0], fields[1], fields[2], fields[19]
            found.append(_Process(int(entry.name), int(parent), int(group), start, state not in (b"Z", b"X")))
    return found


def _tag_of(pid: int) -> int:
    try:
        limits = _PROC.joinpath(str(pid), "limits").read_bytes()
    except OSError:
        return 0
    value = limits.partition(_LIMIT_NAME)[2].split(maxsplit=1)[:1]
    return int(value[0]) if value and value[0].isdigit() else 0
