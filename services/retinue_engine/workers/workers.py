"""The workers of this engine: who may connect, how many there are, and that none is left behind."""

import asyncio
import contextlib
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from retinue.engine.v1.worker_pb2 import WorkerBegin
from retinue.errors import UnauthenticatedError, WorkerNotConnectedError
from retinue_engine.custom.program import Launch
from retinue_engine.workers.link import Link
from retinue_engine.workers.pool import WorkerPool
from retinue_engine.workers.process import WorkerFailedToStartError, WorkerProcess, folder_of

LAST_WORDS_S = 0.5
"""From the end of a worker's stream until it is killed."""
ADDRESS_VARIABLE = "RETINUE_WORKER_ADDRESS"
TOKEN_VARIABLE = "RETINUE_WORKER_TOKEN"  # noqa: S105 - its name


class StartedWorker:
    """A worker's process with its link."""

    def __init__(self, link: Link, process: WorkerProcess) -> None:
        self.link = link
        self._process = process

    async def finish(self) -> None:
        """End its stream, and give it a moment to end by itself and to say its last words."""
        self.link.answers.put_nowait(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await self._process.exited.wait()
                await self._process.silent.wait()


class Workers:
    """Starts workers, and lets in those that it has started."""

    def __init__(self, pool: WorkerPool, *, most: int, memory_bytes: int) -> None:
        self._pool = pool
        self._memory_bytes = memory_bytes
        self._expected: dict[str, Link] = {}
        # A run inside another waits only for deeper ones: so none queues behind its own caller.
        self._places: dict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(most))
        self.address = ""
        """Where workers connect."""

    def admit(self, token: str) -> Link:
        """The link of the worker that shows a token; once. Raises UnauthenticatedError."""
        link = self._expected.pop(token, None)
        if link is None:
            raise UnauthenticatedError("no worker with this token is expected: it is good for one stream")
        return link

    @asynccontextmanager
    async def open(self, launch: Launch, begin: WorkerBegin) -> AsyncIterator[StartedWorker]:
        """Start a worker; leaving kills it with all that it started. Raises WorkerNotConnectedError."""
        async with self._places[begin.depth]:
            link, token = Link(begin), secrets.token_urlsafe(32)
            self._expected[token] = link
            process: WorkerProcess | None = None
            try:
                process = await self._start(launch, token)
                process.attach(link.wrote, link.exited)
                yield StartedWorker(link, process)
            except WorkerFailedToStartError as error:
                raise WorkerNotConnectedError(
                    f"the process of the workflow {launch.workflow} cannot be started: {error}",
                    workflow=launch.workflow,
                ) from None
            finally:
                self._expected.pop(token, None)
                if process is not None:
                    await process.aclose()

    async def _start(self, launch: Launch, token: str) -> WorkerProcess:
        folder = folder_of(launch.folder)
        if launch.command:
            process = WorkerProcess()
            own = {**launch.env, ADDRESS_VARIABLE: self.address, TOKEN_VARIABLE: token}
            await process.start([launch.command, *launch.args], own, folder)
            return process
        process = await self._pool.take()
        process.tell(
            {
                "address": self.address,
                "token": token,
                "folder": folder,
                "env": dict(launch.env),
                "memory_bytes": self._memory_bytes,
            }
        )
        return process
