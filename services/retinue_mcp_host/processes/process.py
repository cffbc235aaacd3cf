"""A stdio server's process: how it is started, who hears its output, and how all that it started is ended."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from retinue_mcp_host.processes.descendants import Descendants
from retinue_mcp_host.processes.pacing import PacedReader
from retinue_mcp_host.processes.stderr import StderrTail

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
"""What a server sees of the host's environment, beside what its config names."""

STDIN_CLOSED_S = 2.0
"""From the end of its input, by which a server should end by itself (MCP, lifecycle), to SIGTERM."""
TERMINATED_S = 2.0
"""From SIGTERM to SIGKILL."""
KILLED_S = 1.0
"""From SIGKILL until the group is given up: only the kernel can hold it then."""
DRAIN_S = 0.2
"""From the first sign of the end (exit, end of stdout) to the verdict: answers may be on the way."""

_POLL_S = 0.02
_MAX_POLL_S = 0.1
_STDIN, _STDOUT, _STDERR = 0, 1, 2


def server_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a server: PATH, HOME, LANG, TMPDIR, and over them its own."""
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(own)


def find_command(command: str, environment: Mapping[str, str]) -> str | None:
    """The program to start: a path as it is; a bare name from PATH, else from beside this Python."""
    if os.sep in command:
        return command
    found = shutil.which(command, path=environment.get("PATH", os.defpath))
    return found or shutil.which(command, path=str(Path(sys.executable).parent))


def _spawn(argv: Sequence[str], environment: Mapping[str, str], cwd: str | None) -> "subprocess.Popen[bytes]":
    # Not by the loop: uvloop forks and runs code of its own in the child, gRPC's fork handlers run there too,
    # and gRPC's threads are anywhere meanwhile; now and then a child crashed before it was a server. This is
    # a vfork without any handler; it takes about a millisecond.
    return subprocess.Popen(  # noqa: S603 - the operator's own config
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        cwd=cwd,
        bufsize=0,
        start_new_session=True,
    )


class _Pipe(asyncio.Protocol):
    """One end of a pipe; hands what happens on to its process."""

    def __init__(self, process: "ServerProcess", number: int) -> None:
        self._process = process
        self._number = number

    def data_received(self, data: bytes) -> None:
        self._process.received(self._number, data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._process.closed(self._number)

    def pause_writing(self) -> None:
        self._process.blocked(now=True)

    def resume_writing(self) -> None:
        self._process.blocked(now=False)


class ServerProcess:
    """One server's process, the leader of a session and process group of its own."""

    def __init__(
        self, on_stdout: Callable[[bytes], None], on_gone: Callable[[], None], tail: StderrTail
    ) -> None:
        self._stdout = PacedReader(on_stdout)
        self._on_gone = on_gone
        self._stderr = PacedReader(tail.feed)
        self.gone = False
        """Whether it can answer no more."""
        self._process: subprocess.Popen[bytes] | None = None
        self._descendants: Descendants | None = None
        self._pidfd = -1
        self._pipes: dict[int, asyncio.BaseTransport] = {}
        self._stdin: asyncio.WriteTransport | None = None
        self._open = {_STDOUT, _STDERR}
        self._exited = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def start(self, argv: Sequence[str], environment: Mapping[str, str], cwd: str | None) -> None:
        """Start it. Raises OSError."""
        loop = asyncio.get_running_loop()
        process = self._process = _spawn(argv, environment, cwd)
        self._descendants = Descendants(process.pid)
        self._watch_exit(loop, process)
        stdout, _ = await loop.connect_read_pipe(lambda: _Pipe(self, _STDOUT), process.stdout)
        self._pipes[_STDOUT] = stdout
        self._stdout.open(stdout)
        stderr, _ = await loop.connect_read_pipe(lambda: _Pipe(self, _STDERR), process.stderr)
        self._pipes[_STDERR] = stderr
        self._stderr.open(stderr)
        stdin, _ = await loop.connect_write_pipe(lambda: _Pipe(self, _STDIN), process.stdin)
        self._pipes[_STDIN] = self._stdin = stdin

    def _watch_exit(self, loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]") -> None:
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not Linux, or an old one
            self._look_for_exit()
        else:
            loop.add_reader(self._pidfd, self._look_for_exit)

    def _look_for_exit(self) -> None:
        if self._process is None or self._exited.is_set():
            return
        if self._process.poll() is None:
            if self._pidfd < 0:
                asyncio.get_running_loop().call_later(_POLL_S, self._look_for_exit)
            return
        self._forget_pidfd()
        self._exited.set()
        self._ending(now=not self._open)

    def _forget_pidfd(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def received(self, number: int, data: bytes) -> None:
        """Take what it wrote on stdout or stderr."""
        if number == _STDOUT:
            self._stdout.feed(data)
        else:
            self._stderr.feed(data)

    def closed(self, number: int) -> None:
        """Note that it closed a pipe."""
        self._open.discard(number)
        if number == _STDIN:
            self._writable.set()
        else:
            self._ending(now=not self._open and self._exited.is_set())

    def blocked(self, *, now: bool) -> None:
        """Note whether what it was sent piles up."""
        if now:
            self._writable.clear()
        else:
            self._writable.set()

    def _ending(self, *, now: bool) -> None:
        if now:
            self._end()
        elif self._exited.is_set() or _STDOUT not in self._open:
            asyncio.get_running_loop().call_later(DRAIN_S, self._end)

    def _end(self) -> None:
        if not self.gone:
            self.gone = True
            self._writable.set()
            self._on_gone()

    @property
    def writable(self) -> bool:
        """Whether it reads what it is sent."""
        return self._writable.is_set()

    @property
    def backlog_bytes(self) -> int:
        """How much of what it was sent waits in this process."""
        return self._stdin.get_write_buffer_size() if self._stdin is not None else 0

    async def until_writable(self) -> None:
        """Wait until it has read most of what it was sent, or is gone."""
        await self._writable.wait()

    def write(self, data: bytes) -> None:
        """Send it bytes; those that it can not take any more are lost."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(data)

    @property
    def pid(self) -> int:
        """Its number; 0 before it is started."""
        return self._process.pid if self._process else 0

    def ending(self) -> str:
        """How it ended, for a sentence that begins with its name."""
        status = self._process.returncode if self._process else None
        if status is None:
            return "closed its stdout"
        if status >= 0:
            return f"ended with exit status {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"

    async def aclose(self) -> None:
        """End it with all that it started: by the end of its input, then SIGTERM, then SIGKILL."""
        process, descendants = self._process, self._descendants
        if process is None or descendants is None:
            return

        async def until_none_runs(repeated: signal.Signals | None = None) -> None:
            # Who is not our child tells nobody of its end: looking is all there is.
            wait_s = _POLL_S
            while not self._exited.is_set() or descendants.running():
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 1.5, _MAX_POLL_S)
                if repeated is not None:  # for those that were started meanwhile
                    descendants.signal(repeated)

        try:
            if self._stdin is not None:
                self._stdin.close()
            await _within(STDIN_CLOSED_S, self._exited.wait)
            if descendants.signal(signal.SIGTERM):
                # One that is stopped takes the other only then.
                descendants.signal(signal.SIGCONT)
                await _within(TERMINATED_S, until_none_runs)
        finally:
            # Also where the closing itself is cancelled: nothing is left behind.
            if descendants.signal(signal.SIGKILL):
                await _within(KILLED_S, lambda: until_none_runs(signal.SIGKILL))
            self._forget_pidfd()
            self._close_pipes(process)

    def _close_pipes(self, process: "subprocess.Popen[bytes]") -> None:
        self._stdout.close()
        self._stderr.close()
        for number, file in ((_STDIN, process.stdin), (_STDOUT, process.stdout), (_STDERR, process.stderr)):
            if number in self._pipes:
                self._pipes[number].close()
            elif file is not None:
                file.close()


async def _within(seconds: float, wait: Callable[[], Awaitable[object]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wait()
