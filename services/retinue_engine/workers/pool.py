"""Workers for classes in Python that are started ahead: each is used once."""

import asyncio
from collections import deque

import structlog

from retinue_engine.workers.process import WorkerFailedToStartError, WorkerProcess, python_worker

log = structlog.get_logger()


class WorkerPool:
    """Has a few processes ready from the first use on. Its tasks run in the group that it is given."""

    def __init__(self, size: int, tasks: asyncio.TaskGroup) -> None:
        self._size = size
        self._tasks = tasks
        self._ready: deque[WorkerProcess] = deque()
        self._starting = 0
        self._closed = False

    async def take(self) -> WorkerProcess:
        """A process that waits to be told what to run. Raises WorkerFailedToStartError."""
        while self._ready:
            process = self._ready.popleft()
            if not process.exited.is_set():
                break
            await process.aclose()
        else:
            process = WorkerProcess()
            await process.start(python_worker())
        if not self._closed:
            self._tasks.create_task(self._fill())
        return process

    async def _fill(self) -> None:
        while len(self._ready) + self._starting < self._size and not self._closed:
            process = WorkerProcess()
            self._starting += 1
            try:
                await process.start(python_worker())
            except (WorkerFailedToStartError, OSError) as error:
                # Whoever needs one next is told why.
                log.warning("a process for custom workflows cannot be started ahead", error=str(error))
                return
            finally:
                self._starting -= 1
            self._ready.append(process)
        if self._closed:
            await self.aclose()

    async def aclose(self) -> None:
        """End those that wait."""
        self._closed = True
        while self._ready:
            await self._ready.popleft().aclose()
