"""The McpHostService on the wire."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog

from retinue.errors import InvalidArgumentError, RetinueError, Violation
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue_kit.paging import MAX_PAGE_SIZE, decode_page_token, encode_page_token, page_limit
from retinue_mcp_host.calls.access import is_allowed
from retinue_mcp_host.calls.calls import ToolCalls
from retinue_mcp_host.calls.server_requests import ServerRequests
from retinue_mcp_host.calls.stream import MAX_WAITING_UPDATES, ToolStream
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.convert import (
    DEFAULT_NAMESPACE,
    access_from_proto,
    answer_from_proto,
    call_from_proto,
    closed_to_proto,
    failure_to_proto,
    progress_to_proto,
    request_to_proto,
    responses_to_proto,
    result_to_proto,
    scope_from_proto,
    tool_to_proto,
)
from retinue_mcp_host.model import Progress, ServerRequest, ServerRequestClosed
from retinue_mcp_host.servers.labelled import LabelledServers

log = structlog.get_logger()

MAX_SERVERS = 100
"""Of one ListTools."""
HEARTBEAT_S = 20.0
"""How long a stream of tool calls is silent at most."""

Context = grpc.aio.ServicerContext[Any, Any]


class McpHostServicer(service_pb2_grpc.McpHostServiceServicer):
    """Lists and calls tools for callers. Its calls run in the task group that it is given."""

    def __init__(
        self,
        calls: ToolCalls,
        labelled: LabelledServers,
        requests: ServerRequests,
        changes: Changes,
        tasks: asyncio.TaskGroup,
        max_stream_calls: int,
    ) -> None:
        self._calls = calls
        self._labelled = labelled
        self._requests = requests
        self._changes = changes
        self._tasks = tasks
        self._max_stream_calls = max_stream_calls
        self._streams: dict[ToolStream, asyncio.Task[None]] = {}

    async def ListTools(
        self,
        request: service_pb2.ListToolsRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> service_pb2.ListToolsResponse:
        """See the proto."""
        limit = page_limit(request.page_size, default=MAX_PAGE_SIZE)
        place = decode_page_token(request.page_token, int, int)
        refs = await self._servers(request)
        access = access_from_proto(request.access)
        first, skip = (int(place[0]), int(place[1])) if place else (0, 0)
        listed = await self._calls.list_servers(
            request.namespace or DEFAULT_NAMESPACE, refs, scope_from_proto(request.scope)
        )
        response = service_pb2.ListToolsResponse()
        for number, ((server, _), tools) in enumerate(zip(refs, listed, strict=True)):
            if isinstance(tools, RetinueError):
                if place is None:
                    response.failures.add(server=server, failure=failure_to_proto(tools))
                continue
            if number < first:
                continue
            begin = skip if number == first else 0
            for index, tool in enumerate(list(tools.values())[begin:], begin):
                if not is_allowed(access, server, tool.name):
                    continue
                if len(response.tools) == limit:
                    response.next_page_token = response.next_page_token or encode_page_token([number, index])
                    break
                response.tools.append(tool_to_proto(server, tool))
        return response

    async def _servers(self, request: service_pb2.ListToolsRequest) -> list[tuple[str, int]]:
        """The servers that are meant, by name and version. Raises InvalidArgumentError."""
        if request.labels and not request.servers:
            namespace = request.namespace or DEFAULT_NAMESPACE
            return [(name, 0) for name in await self._labelled.names(namespace, request.labels, MAX_SERVERS)]
        if request.labels or not 1 <= len(request.servers) <= MAX_SERVERS:
            raise InvalidArgumentError(
                f"servers has {len(request.servers)} entries: name 1 to {MAX_SERVERS}, or give labels",
                violations=[Violation("servers", f"must have 1 to {MAX_SERVERS} entries")],
            )
        return [(ref.name, ref.version) for ref in request.servers]

    async def CallTool(
        self, request: service_pb2.CallToolRequest, context: Context
    ) -> AsyncIterator[service_pb2.CallToolResponse]:
        """See the proto."""
        updates = _UpdateWriter(self._tasks, context)
        try:
            result = await self._calls.call(
                call_from_proto(request.call, context.peer()), updates.tell_progress, updates.tell_request
            )
            await updates.written()
            yield service_pb2.CallToolResponse(result=result_to_proto(result))
        finally:
            updates.close()

    async def AnswerServerRequest(
        self,
        request: service_pb2.AnswerServerRequestRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> service_pb2.AnswerServerRequestResponse:
        """See the proto."""
        self._requests.answer(request.request_id, answer_from_proto(request))
        return service_pb2.AnswerServerRequestResponse()

    async def StreamToolCalls(
        self, request_iterator: AsyncIterator[service_pb2.StreamToolCallsRequest], context: Context
    ) -> AsyncIterator[service_pb2.StreamToolCallsResponse]:
        """See the proto."""
        stream = ToolStream(self._calls, self._tasks, self._max_stream_calls)
        self._streams[stream] = self._tasks.create_task(self._read(request_iterator, stream, context.peer()))
        # A call that is cancelled while it sends leaves the generator where it stands; this comes always.
        context.add_done_callback(lambda _context: self._close(stream))  # type: ignore[arg-type]
        self._changes.listen(stream.changed)
        try:
            yield service_pb2.StreamToolCallsResponse()
            while (batch := await stream.next_batch(HEARTBEAT_S)) is not None:
                for response in responses_to_proto(batch):
                    yield response
        finally:
            self._close(stream)

    async def _read(
        self, requests: AsyncIterator[service_pb2.StreamToolCallsRequest], stream: ToolStream, caller: str
    ) -> None:
        try:
            async for request in requests:
                await stream.room()
                for command in request.commands:
                    _do(command, stream, caller)
        except Exception as error:  # noqa: BLE001 - the caller broke the stream off; its calls end with it
            log.debug("stream of tool calls broke", error=repr(error))
        finally:
            stream.end()

    def _close(self, stream: ToolStream) -> None:
        reading = self._streams.pop(stream, None)
        if reading is not None:
            self._changes.unlisten(stream.changed)
            reading.cancel()
            stream.close()

    def close(self) -> None:
        """End what still runs."""
        for stream in tuple(self._streams):
            self._close(stream)


class _UpdateWriter:
    """Sends what happens before the end of a CallTool, in order. Where nothing does it costs no task."""

    def __init__(self, tasks: asyncio.TaskGroup, context: Context) -> None:
        self._tasks = tasks
        self._context = context
        self._waiting: deque[service_pb2.CallToolResponse] = deque()
        self._writing: asyncio.Task[None] | None = None

    def tell_progress(self, progress: Progress) -> None:
        """Send it soon; who reads too slowly is not told all."""
        if len(self._waiting) < MAX_WAITING_UPDATES:
            self._tell(service_pb2.CallToolResponse(progress=progress_to_proto(progress)))

    def tell_request(self, request: ServerRequest | ServerRequestClosed) -> None:
        """Send it soon."""
        if isinstance(request, ServerRequest):
            self._tell(service_pb2.CallToolResponse(request=request_to_proto(request)))
        else:
            self._tell(service_pb2.CallToolResponse(request_closed=closed_to_proto(request)))

    def _tell(self, update: service_pb2.CallToolResponse) -> None:
        self._waiting.append(update)
        if self._writing is None or self._writing.done():
            self._writing = self._tasks.create_task(self._write())

    async def _write(self) -> None:
        while self._waiting:
            try:
                await self._context.write(self._waiting.popleft())
            except Exception as error:  # noqa: BLE001 - the caller has gone; its call ends by that
                log.debug("an update was not sent", error=repr(error))
                self._waiting.clear()

    async def written(self) -> None:
        """Wait until all is sent."""
        if self._writing is not None:
            await self._writing

    def close(self) -> None:
        """Send no more."""
        if self._writing is not None:
            self._writing.cancel()


def _do(command: service_pb2.ToolCallCommand, stream: ToolStream, caller: str) -> None:
    kind = command.WhichOneof("command")
    try:
        if kind == "start":
            stream.start(command.call_id, call_from_proto(command.start, caller))
        elif kind == "cancel":
            stream.cancel(command.call_id)
        elif kind == "close_scope":
            scope = command.close_scope
            stream.close_scope(scope.namespace or DEFAULT_NAMESPACE, scope.scope_id)
        else:
            raise InvalidArgumentError("a command needs start, cancel or close_scope")
    except RetinueError as error:
        stream.refuse(command.call_id, error)
