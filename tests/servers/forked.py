"""Services as processes that begin with everything imported: they start in a tenth of the time.

Each is forked from a process that has imported the services and done nothing else. What `python -m` does
besides is tested where processes are the subject: of the kit, and of `retinue up`.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_SERVERS = get_context("forkserver")
_SERVERS.set_forkserver_preload(
    ["retinue_engine.app", "retinue_engine.stores.mongo.store", "retinue_mcp_host.app"]
)


class Forked:
    """A service's process, with as much of asyncio's `Process` as tests use."""

    def __init__(self, process: ForkServerProcess, ready: str) -> None:
        self._process = process
        self.ready = ready
        """The line that it wrote on stdout when it was ready; empty where it ended before that."""

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal's number; None while it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def wait(self) -> int:
        """Wait for its end; the exit status."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


async def start_forked(module: str, env: Mapping[str, str], log: Path) -> Forked:
    """Start a service with this environment and no other, its stderr added to a log, and wait for `ready`."""
    said, says = _SERVERS.Pipe(duplex=False)
    with said:
        with says:
            process = _SERVERS.Process(target=_serve, args=(module, dict(env), log, says), daemon=True)
            process.start()
        ready = await _first_line(said)
    return Forked(process, ready)


async def _first_line(said: Connection) -> str:
    reader = asyncio.StreamReader()
    with os.fdopen(os.dup(said.fileno()), "rb") as file:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), file
        )
        try:
            return (await reader.readline()).decode()
        finally:
            transport.close()


def _serve(module: str, env: Mapping[str, str], log: Path, says: Connection) -> None:
    """In the process: become the service."""
    # What gRPC is told by our packages when they are imported stays.
    grpc = {name: value for name, value in os.environ.items() if name.startswith("GRPC_")}
    os.environ.clear()
    os.environ.update(grpc | dict(env))
    os.dup2(says.fileno(), 1)
    says.close()
    stderr = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(stderr, 2)
    os.close(stderr)
    sys.argv = [module]
    sys.exit(import_module(f"{module}.__main__").main())
