"""A worker's stream: calls out, their outcomes in, any number side by side."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from retinue.client import Access, ServiceChannel, open_channel
from retinue.engine.v1.call_pb2 import WorkflowCall
from retinue.engine.v1.worker_pb2 import CancelCall, WorkerBegin, WorkerCall, WorkRequest, WorkResponse
from retinue.engine.v1.worker_service_pb2_grpc import WorkerServiceStub
from retinue.errors import error_from_facts

BEGIN_S = 30.0
"""From the beginning of the stream to its first message."""


class Connection:
    """One stream of one worker."""

    def __init__(self, stream: "grpc.aio.StreamStreamCall[WorkRequest, WorkResponse]") -> None:
        self._stream = stream
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[Any]] = {}
        # One write at a time is what a stream takes.
        self._writing = asyncio.Lock()

    async def begin(self) -> WorkerBegin:
        """What to run; the first message."""
        async with asyncio.timeout(BEGIN_S):
            first = await self._stream.read()
        if not isinstance(first, WorkResponse) or not first.HasField("begin"):
            raise ConnectionError("the engine did not say what to run")
        return first.begin

    async def listen(self) -> None:
        """Take in outcomes until the engine ends the stream."""
        try:
            while isinstance(response := await self._stream.read(), WorkResponse):
                answer = response.answer
                future = self._open.pop(answer.call_id, None)
                if future is None or future.done():
                    continue
                if answer.HasField("error"):
                    error = answer.error
                    future.set_exception(error_from_facts(error.reason, error.message, error.metadata))
                else:
                    future.set_result(json.loads(answer.output_json))
        except grpc.aio.AioRpcError:
            pass  # the engine is gone, and this process with it

    async def call(self, key: str, call: WorkflowCall) -> Any:
        """Ask the engine something; what it gives. Raises the RetinueError with which it fails."""
        call_id = next(self._ids)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[call_id] = future
        await self.send(WorkRequest(call=WorkerCall(call_id=call_id, key=key, call=call)))
        try:
            return await future
        except asyncio.CancelledError:
            if self._open.pop(call_id, None) is not None:
                await self.send(WorkRequest(cancel=CancelCall(call_id=call_id)))
            raise

    async def send(self, request: WorkRequest) -> None:
        """Send a message."""
        async with self._writing:
            await self._stream.write(request)


@asynccontextmanager
async def open_connection(address: str, token: str) -> AsyncIterator[Connection]:
    """Call the engine with a token that is good for one stream."""
    channel: ServiceChannel
    async with open_channel("engine", address, Access(token=token)) as channel:
        stream = WorkerServiceStub(channel.channel).Work(metadata=channel.metadata)
        try:
            yield Connection(stream)
        finally:
            stream.cancel()
