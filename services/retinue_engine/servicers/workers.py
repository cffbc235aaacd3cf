"""WorkerService on the wire, at an address of its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from retinue.engine.v1 import worker_service_pb2_grpc
from retinue.engine.v1.worker_pb2 import WorkRequest, WorkResponse
from retinue.errors import UnauthenticatedError
from retinue_engine.settings import EngineSettings
from retinue_engine.workers.link import Link
from retinue_engine.workers.pool import WorkerPool
from retinue_engine.workers.workers import Workers
from retinue_kit.interceptor import CallInterceptor
from retinue_kit.tasks import open_task_group

log = structlog.get_logger()

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of a worker's message; the engine's own limits on calls and results are below."""

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Connects workers with their runs. It reads them in the task group that it is given."""

    def __init__(self, workers: Workers, tasks: asyncio.TaskGroup) -> None:
        self._workers = workers
        self._tasks = tasks

    async def Work(
        self, requests: AsyncIterator[WorkRequest], context: Context
    ) -> AsyncIterator[WorkResponse]:
        """Tell a worker what to run, then carry messages until the run lets go of it."""
        link = self._workers.admit(_token(context))
        link.connect()
        yield WorkResponse(begin=link.begin)
        reading = self._tasks.create_task(_read(requests, link))
        try:
            while (answer := await link.answers.get()) is not None:
                yield answer
        finally:
            reading.cancel()
            link.disconnect()


async def _read(requests: AsyncIterator[WorkRequest], link: Link) -> None:
    try:
        async for request in requests:
            await link.receive(request)
    except Exception as error:  # noqa: BLE001 - one worker's stream must not end the others
        log.debug("a worker's stream broke off", error=str(error))
    finally:
        link.disconnect()


def _token(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    raise UnauthenticatedError("a worker shows its token: send `authorization: Bearer TOKEN`")


@asynccontextmanager
async def open_workers(settings: EngineSettings) -> AsyncIterator[Workers]:
    """Serve workers; leaving ends those that are started ahead."""
    async with open_task_group() as tasks:
        pool = WorkerPool(settings.workers_ahead, tasks)
        workers = Workers(pool, most=settings.max_workers, memory_bytes=settings.worker_memory_bytes)
        # Who may connect is said by the tokens of runs: the service's own is no worker's business.
        interceptor = CallInterceptor(settings.model_copy(update={"token": None}))
        server = grpc.aio.server(
            interceptors=[interceptor],
            options=(
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ),
        )
        servicer = WorkerServicer(workers, tasks)
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(servicer, server)
        workers.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield workers
        finally:
            interceptor.end_streams()
            await server.stop(0)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.close_timeout_s):
                    await pool.aclose()
