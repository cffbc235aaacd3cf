"""Two engines as processes on one MongoDB, which is a process too; each can be killed or stand still."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.mongodb import MongoDB, given_uri, run_mongodb
from tests.suite import Process, Processes, Suite, _open_view, open_processes

LEASE_S = 2.0


def signal_to(process: Process, number: int) -> None:
    """Send a signal to a process that runs."""
    assert process.running is not None
    process.running.send_signal(number)


@asynccontextmanager
async def standing_still(process: Process) -> AsyncIterator[None]:
    """Stop a process inside the block; it goes on afterwards and does not know that time has passed."""
    signal_to(process, signal.SIGSTOP)
    try:
        yield
    finally:
        if process.running is not None and process.running.returncode is None:
            signal_to(process, signal.SIGCONT)


@dataclass
class Engines:
    """Two engines that share the work."""

    first: Processes
    second: Suite
    second_process: Process
    mongodb: MongoDB | None
    """None where the tests' database is on a server that the environment names, not theirs to kill."""

    @property
    def suites(self) -> tuple[Suite, Suite]:
        """What tests do with each of them."""
        return self.first, self.second

    @property
    def processes(self) -> tuple[Process, Process]:
        """Each of them."""
        return self.first.engine_process, self.second_process


@contextmanager
def database(folder: Path, *, own: bool = False) -> Iterator[tuple[MongoDB | None, str]]:
    """A MongoDB server, None where the environment names one, and the address of a database there.

    One of its `own` is the test's to kill, whatever the environment names.
    """
    given = None if own else given_uri()
    if given is not None:
        yield None, given
        return
    folder.mkdir()
    with run_mongodb(folder) as server:
        # Calls to a server that is gone end soon enough for a test.
        yield server, server.uri("serverSelectionTimeoutMS=500")


@asynccontextmanager
async def open_engines(
    folder: Path,
    script: Mapping[str, Any],
    *,
    lease_s: float = LEASE_S,
    own_database: bool = False,
    **project: Any,
) -> AsyncIterator[Engines]:
    """Open everything; see `database` and `open_processes`."""
    async with AsyncExitStack() as stack:
        opened = database(folder / "mongodb", own=own_database)
        mongodb, uri = await asyncio.to_thread(stack.enter_context, opened)
        env = {"RETINUE_STORE": uri, "RETINUE_LEASE_S": str(lease_s), "RETINUE_HEARTBEAT_S": "1"}
        first = await stack.enter_async_context(open_processes(folder, script, env=env, **project))
        (folder / "second").mkdir()
        process = Process(
            "retinue_engine",
            folder / "second",
            {
                **first.engine_process._env,
                "RETINUE_ENGINE_ADDRESS": "127.0.0.1:0",
            },
        )
        stack.push_async_callback(process.aclose)
        await process.start()
        second = await stack.enter_async_context(
            _open_view(folder, first.model, process.address, first.registry, first.mcp_host)
        )
        yield Engines(first, second, process, mongodb)
