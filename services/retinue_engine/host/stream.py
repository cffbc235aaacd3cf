"""One StreamToolCalls to the MCP host: many calls on it, each with its own answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from retinue.client import ServiceChannel
from retinue.errors import RetinueError, ServiceUnavailableError, error_from_facts
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc, tool_pb2
from retinue_engine.host.requests import CallRequests
from retinue_engine.tools import OnProgress

_Rpc = grpc.aio.StreamStreamCall[service_pb2.StreamToolCallsRequest, service_pb2.StreamToolCallsResponse]
_Call = tuple["asyncio.Future[tool_pb2.ToolResult]", OnProgress, CallRequests | None]


class HostStream:
    """Calls on one stream. What is asked in one pass of the loop travels in one message."""

    def __init__(
        self,
        rpc: "_Rpc",
        channel: ServiceChannel,
    ) -> None:
        self._rpc = rpc
        self._channel = channel
        self._calls: dict[int, _Call] = {}
        self._commands: list[service_pb2.ToolCallCommand] = []
        self._wake = asyncio.Event()
        self._failure: RetinueError | None = None

    async def call(
        self,
        call_id: int,
        call: tool_pb2.ToolCall,
        on_progress: OnProgress,
        requests: CallRequests | None = None,
    ) -> tool_pb2.ToolResult:
        """Make a call. Raises its failure, ServiceUnavailableError where the stream ends before it."""
        if self._failure:
            raise self._failure
        future: asyncio.Future[tool_pb2.ToolResult] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = (future, on_progress, requests)
        self._send(service_pb2.ToolCallCommand(call_id=call_id, start=call))
        try:
            return await future
        except asyncio.CancelledError:
            self._send(service_pb2.ToolCallCommand(call_id=call_id, cancel=service_pb2.CancelToolCall()))
            raise
        finally:
            del self._calls[call_id]

    def close_scope(self, namespace: str, root_run_id: str) -> None:
        """Say that a run tree has ended."""
        scope = service_pb2.CloseScope(namespace=namespace, scope_id=root_run_id)
        self._send(service_pb2.ToolCallCommand(close_scope=scope))

    def _send(self, command: service_pb2.ToolCallCommand) -> None:
        self._commands.append(command)
        self._wake.set()

    async def write(self) -> None:
        """Send what is asked, as it is asked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._commands = self._commands, []
            try:
                await self._rpc.write(service_pb2.StreamToolCallsRequest(commands=commands))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return  # the reading side says why

    async def changes(self) -> AsyncIterator[Sequence[service_pb2.ToolsChanged]]:
        """Take in what the host says and yield what it says about lists, at each message."""
        try:
            async for response in self._rpc:
                for update in response.updates:
                    self._take(update)
                yield response.tools_changed
        except grpc.aio.AioRpcError as failure:
            raise self._channel.error(failure) from None

    def _take(self, update: service_pb2.ToolCallUpdate) -> None:
        call = self._calls.get(update.call_id)
        if call is None or call[0].done():
            return
        future, on_progress, requests = call
        which = update.WhichOneof("update")
        if which == "result":
            future.set_result(update.result)
        elif which == "failure":
            failure = update.failure
            future.set_exception(error_from_facts(failure.reason, failure.message, failure.metadata))
        elif which == "progress":
            progress = update.progress
            total = progress.total if progress.HasField("total") else None
            try:
                on_progress(progress.progress, total, progress.message)
            except RetinueError as error:
                # Its own run cannot take it; the other runs' calls on this stream go on.
                self._give_up(update.call_id, error)
        elif requests is None:
            return
        elif which == "request":
            requests.take(update.request, partial(self._give_up, update.call_id))
        elif which == "request_closed":
            requests.close(update.request_closed.request_id)

    def _give_up(self, call_id: int, error: RetinueError) -> None:
        call = self._calls.get(call_id)
        if call is not None and not call[0].done():
            call[0].set_exception(error)
            self._send(service_pb2.ToolCallCommand(call_id=call_id, cancel=service_pb2.CancelToolCall()))

    def fail_calls(self) -> None:
        """Answer the calls that are left: their outcome is not known."""
        self._failure = ServiceUnavailableError(
            "the connection to the MCP host broke off before the tool answered",
            service=self._channel.service,
            address=self._channel.address,
        )
        for future, *_ in self._calls.values():
            if not future.done():
                future.set_exception(self._failure)


@asynccontextmanager
async def open_host_stream(channel: ServiceChannel) -> AsyncIterator[HostStream]:
    """Open a stream; leaving ends it."""
    stub = service_pb2_grpc.McpHostServiceStub(channel.channel)
    rpc: Any = stub.StreamToolCalls(metadata=channel.metadata)
    stream = HostStream(rpc, channel)
    writing = asyncio.create_task(stream.write())
    try:
        yield stream
    finally:
        writing.cancel()
        rpc.cancel()
        stream.fail_calls()
        await asyncio.wait([writing])
