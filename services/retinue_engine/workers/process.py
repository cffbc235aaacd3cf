"""One worker's process: started with next to nothing around it, heard, and killed with what it started."""

import asyncio
import codecs
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retinue.engine.v1.event_pb2 import OUTPUT_STREAM_STDERR, OUTPUT_STREAM_STDOUT, OutputStream

INHERITED = ("PATH", "HOME", "LANG", "TMPDIR")
"""What a worker sees of the engine's environment, beside what its config names."""
PAUSE_S = 0.02
"""After each piece of what it wrote: one that writes without end must not keep the loop busy."""
POLL_S = 0.02
"""How often is asked whether it has ended, where the system tells nobody."""
REAP_S = 2.0
"""From SIGKILL until it is given up: only the kernel can hold it then."""


MAX_EARLY = 64
"""Pieces of what it writes before it has a run."""

OnOutput = Callable[[OutputStream.ValueType, str], None]


class WorkerFailedToStartError(Exception):
    """The process cannot be started; its text says why."""


class _Pipe(asyncio.Protocol):
    """Its stdout or stderr."""

    def __init__(self, take: Callable[[str], None], on_end: Callable[[], None]) -> None:
        self._take = take
        self._on_end = on_end
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._transport: asyncio.ReadTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.ReadTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._take(self._decoder.decode(data))
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._on_end()


class WorkerProcess:
    """A process that runs the code of one run; the leader of a process group of its own."""

    def __init__(self) -> None:
        self._on_output: OnOutput = self._keep_early
        self._on_exit: Callable[[str], None] = lambda _ending: None
        self._early: list[tuple[OutputStream.ValueType, str]] = []
        """What it wrote before anybody listened."""
        self._ending = ""
        self.exited = asyncio.Event()
        """Whether it has ended."""
        self.silent = asyncio.Event()
        """Whether nobody can write to its stdout and stderr any more."""
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._open = 2
        self._transports: list[asyncio.BaseTransport] = []
        self._stdin: asyncio.WriteTransport | None = None

    async def start(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, folder: str = ""
    ) -> None:
        """Start it; its environment is scrubbed. Raises WorkerFailedToStartError."""
        own = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(environment or {})
        command = shutil.which(argv[0], path=own.get("PATH", os.defpath)) or argv[0]
        loop = asyncio.get_running_loop()
        try:
            # Not by the loop: uvloop forks and runs code of its own in the child, beside gRPC's threads.
            process = self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a vfork of about a millisecond; config
                [command, *argv[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=own,
                cwd=folder or None,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerFailedToStartError(f"{argv[0]} cannot be started: {error.strerror}") from None
        self._watch_exit(loop, process)
        try:
            await self._connect_pipes(loop, process)
        except BaseException:
            # Nobody has it yet who could end it.
            await self.aclose()
            raise

    async def _connect_pipes(
        self, loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]"
    ) -> None:
        for stream, pipe in ((OUTPUT_STREAM_STDOUT, process.stdout), (OUTPUT_STREAM_STDERR, process.stderr)):
            transport, _ = await loop.connect_read_pipe(self._reader(stream), pipe)
            self._transports.append(transport)
        self._stdin, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, process.stdin)
        self._transports.append(self._stdin)

    def attach(self, on_output: OnOutput, on_exit: Callable[[str], None]) -> None:
        """Tell what it writes and how it ends, also what of that has happened before."""
        self._on_output, self._on_exit = on_output, on_exit
        early, self._early = self._early, []
        for stream, text in early:
            on_output(stream, text)
        if self._ending:
            on_exit(self._ending)

    def _keep_early(self, stream: OutputStream.ValueType, text: str) -> None:
        if len(self._early) < MAX_EARLY:
            self._early.append((stream, text))

    def _reader(self, stream: OutputStream.ValueType) -> Callable[[], _Pipe]:
        return lambda: _Pipe(lambda text: self._on_output(stream, text), self._pipe_ended)

    def _pipe_ended(self) -> None:
        self._open -= 1
        if self._open == 0:
            self.silent.set()

    def _watch_exit(self, loop: asyncio.AbstractEventLoop, process: "subprocess.Popen[bytes]") -> None:
        try:
            self._pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):  # not Linux, or an old one
            self._look_for_exit()
        else:
            loop.add_reader(self._pidfd, self._look_for_exit)

    def _look_for_exit(self) -> None:
        process = self._process
        if process is None or self.exited.is_set():
            return
        if self._pidfd >= 0:
            # Before it is reaped its number is nobody else's.
            self.kill()
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            process.wait()
        elif process.poll() is None:
            asyncio.get_running_loop().call_later(POLL_S, self._look_for_exit)
            return
        self._ending = _ending(process.returncode)
        self.exited.set()
        self._on_exit(self._ending)

    def tell(self, what: Mapping[str, Any]) -> None:
        """Write a line of JSON to its stdin."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(json.dumps(what).encode() + b"\n")

    def kill(self) -> None:
        """Kill it and all in its process group."""
        if self._process is not None and not self.exited.is_set():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def aclose(self) -> None:
        """Kill it, and close what belongs to it."""
        self.kill()
        try:
            if self._process is not None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REAP_S):
                        await self.exited.wait()
        finally:
            for transport in self._transports:
                transport.close()
            if self._pidfd >= 0:
                asyncio.get_running_loop().remove_reader(self._pidfd)
                os.close(self._pidfd)
                self._pidfd = -1


def python_worker() -> list[str]:
    """How a worker for a class in Python is started, before it is known which."""
    # -P: what lies in the working directory takes the place of no module.
    return [sys.executable, "-P", "-u", "-m", "retinue_workflow.worker"]


def _ending(status: int) -> str:
    """How a process ended, for a sentence that begins with it."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def folder_of(folder: str) -> str:
    """A folder that is there. Raises WorkerFailedToStartError."""
    if folder and not Path(folder).is_dir():
        raise WorkerFailedToStartError(f"its folder {folder} is not there")
    return folder
