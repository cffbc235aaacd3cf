"""The MCP host's tools: lists that are kept while they are known to hold, calls over one kept stream."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import structlog

from retinue.client import ServiceChannel, Tools
from retinue.client.backoff import backoff_s
from retinue.errors import (
    McpServerRequestNotFoundError,
    McpTimeoutError,
    RetinueError,
    ServiceUnavailableError,
    error_from_facts,
)
from retinue.mcphost.v1 import resource_pb2, service_pb2, service_pb2_grpc, tool_pb2
from retinue_engine.definition import ALL_TOOLS, Server, ToolAccess
from retinue_engine.host.requests import CallRequests
from retinue_engine.host.stream import HostStream, open_host_stream
from retinue_engine.tools import (
    NO_SCOPE,
    CallerScope,
    OnProgress,
    OnRequest,
    Tool,
    ToolAnswer,
    ToolBlob,
    ToolList,
    ToolRequest,
)
from retinue_kit.tasks import open_task_group
from retinue_kit.tracing import current_traceparent

log = structlog.get_logger()

STREAM_WAIT_S = 10.0
"""How long a call waits for a stream to the host, which may be starting again."""

LIST_TRIES = 3
"""How often a list is asked for while the host breaks off: it changes nothing there."""

ANSWER_TRIES = 3
"""How often an answer to a server is sent while the host cannot be reached."""

MAX_LISTS = 2000
"""That are kept; lists of a session's or a run's own connections are as many as these."""

MAX_SCOPES = 10_000
"""Run trees that are remembered; those that end at another engine are forgotten here by that."""

_ListKey = tuple[str, tuple[Server, ...], ToolAccess, CallerScope]


class HostToolbox:
    """A Toolbox over the MCP host. Its owner keeps `keep_stream` running."""

    def __init__(self, channel: ServiceChannel) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.McpHostServiceStub(channel.channel)
        self._stream: HostStream | None = None
        self._standing = asyncio.Event()
        self._lists: dict[_ListKey, ToolList] = {}
        self._scopes: dict[tuple[str, str], None] = {}
        """Run trees, by namespace and root, that may have connections of their own."""
        self._changes = 0
        self._call_ids = itertools.count(1)

    async def keep_stream(self) -> None:
        """Keep one stream to the host, from now until cancelled."""
        told = False
        waits = backoff_s()
        while True:
            try:
                async with open_host_stream(self._channel) as stream:
                    async for changed in stream.changes():
                        if not self._standing.is_set():
                            self._stream = stream
                            self._forget(None)
                            self._standing.set()
                            waits = backoff_s()
                            if told:
                                log.info("the stream to the MCP host stands again")
                                told = False
                        for each in changed:
                            self._forget(each)
            except RetinueError as error:
                if not told:
                    log.info("the stream to the MCP host broke off", error=error.message)
                    told = True
            self._standing.clear()
            self._stream = None
            self._forget(None)
            await asyncio.sleep(next(waits))

    def _forget(self, changed: service_pb2.ToolsChanged | None) -> None:
        self._changes += 1
        for key in list(self._lists):
            namespace, servers, *_ = key
            if changed is None or (
                namespace == changed.namespace and any(each.name == changed.server for each in servers)
            ):
                del self._lists[key]

    async def list_tools(
        self,
        namespace: str,
        servers: Sequence[Server],
        access: ToolAccess = ALL_TOOLS,
        scope: CallerScope = NO_SCOPE,
    ) -> ToolList:
        if all(each.scope == "shared" for each in servers):
            scope = NO_SCOPE
        else:
            if len(self._scopes) >= MAX_SCOPES:
                del self._scopes[next(iter(self._scopes))]
            self._scopes[namespace, scope.root_run_id] = None
        key = (namespace, tuple(servers), access, scope)
        kept = self._lists.get(key)
        if kept is not None:
            return kept
        found, changes = await self._ask_again(key)
        # Without a stream nobody would say that the list has changed.
        if self._standing.is_set() and changes == self._changes:
            if len(self._lists) >= MAX_LISTS:
                del self._lists[next(iter(self._lists))]
            self._lists[key] = found
        return found

    def close_scope(self, namespace: str, root_run_id: str) -> None:
        if (namespace, root_run_id) not in self._scopes:
            return
        del self._scopes[namespace, root_run_id]
        for key in [key for key in self._lists if (key[0], key[3].root_run_id) == (namespace, root_run_id)]:
            del self._lists[key]
        # Without a stream they are closed when they have been idle.
        if self._stream is not None:
            self._stream.close_scope(namespace, root_run_id)

    async def _ask_again(self, key: _ListKey) -> tuple[ToolList, int]:
        """The tools, and the count of changes when they were asked for; waits for a host that starts."""
        waits = backoff_s()
        for left in reversed(range(LIST_TRIES)):
            if self._stream is None:
                await self._wait_for_stream()
            changes = self._changes
            try:
                return await self._ask(*key), changes
            except ServiceUnavailableError:
                if not left:
                    raise
                await asyncio.sleep(next(waits))
        raise AssertionError  # the last try returns or raises

    async def _ask(
        self, namespace: str, servers: Sequence[Server], access: ToolAccess, scope: CallerScope
    ) -> ToolList:
        tools, failures = await Tools(self._channel, namespace).list(
            [tool_pb2.ServerRef(name=each.name, version=each.version) for each in servers],
            access=_access(access),
            scope=resource_pb2.CallerScope(session_id=scope.session_id, root_run_id=scope.root_run_id),
        )
        if failures:
            failure = failures[0].failure
            raise error_from_facts(failure.reason, failure.message, failure.metadata)
        by_server = {each.name: each for each in servers}
        by_name: dict[str, Tool] = {}
        functions = []
        for tool in tools:
            by_name[tool.display_name] = Tool(
                server=by_server[tool.server],
                name=tool.name,
                read_only=tool.annotations.read_only,
                idempotent=tool.annotations.idempotent,
                destructive=not tool.annotations.HasField("destructive") or tool.annotations.destructive,
                access=access,
            )
            function = {
                "name": tool.display_name,
                "description": tool.description,
                "parameters": orjson.loads(tool.input_schema_json or b"{}"),
            }
            functions.append({"type": "function", "function": function})
        return ToolList(by_name, functions)

    async def call_tool(
        self, request: ToolRequest, on_progress: OnProgress, on_request: OnRequest | None = None
    ) -> ToolAnswer:
        stream = self._stream or await self._wait_for_stream()
        call = tool_pb2.ToolCall(
            namespace=request.namespace,
            server=tool_pb2.ServerRef(name=request.tool.server.name, version=request.tool.server.version),
            tool=request.tool.name,
            arguments_json=request.arguments_json,
            idempotency_key=request.idempotency_key,
            run_id=request.run_id,
            session_id=request.session_id,
            root_run_id=request.run_id,
            traceparent=current_traceparent() or "",
            accepts_elicitation=on_request is not None,
            accepts_sampling=on_request is not None,
            access=_access(request.tool.access),
        )
        limit_s = request.tool.server.call_limit_s
        requests: CallRequests | None = None
        try:
            async with asyncio.timeout(limit_s) as clock:
                if on_request is not None:
                    server = request.tool.server.name
                    requests = CallRequests(server, on_request, clock, self._answer_server)
                return _answer(await stream.call(next(self._call_ids), call, on_progress, requests))
        except TimeoutError:
            server = request.tool.server.name
            raise McpTimeoutError(
                f"the MCP host said nothing of a call of {server} for {limit_s:g} s: see its log",
                server=server,
                timeout_s=f"{limit_s:g}",
            ) from None
        finally:
            if requests is not None:
                await requests.aclose()

    async def _answer_server(self, answer: service_pb2.AnswerServerRequestRequest) -> None:
        waits = backoff_s()
        for left in reversed(range(ANSWER_TRIES)):
            try:
                await self._channel.unary(self._stub.AnswerServerRequest, answer)
            except McpServerRequestNotFoundError:
                return  # answered by a try before this one, or nobody waits for it any more
            except ServiceUnavailableError:
                if not left:
                    raise
                await asyncio.sleep(next(waits))
            else:
                return

    async def _wait_for_stream(self) -> HostStream:
        try:
            async with asyncio.timeout(STREAM_WAIT_S):
                while self._stream is None:
                    await self._standing.wait()
        except TimeoutError:
            raise ServiceUnavailableError(
                f"cannot reach the MCP host at {self._channel.address}: is it running?",
                service=self._channel.service,
                address=self._channel.address,
            ) from None
        return self._stream


def _access(access: ToolAccess) -> tool_pb2.ToolAccess | None:
    if access == ALL_TOOLS:
        return None
    return tool_pb2.ToolAccess(
        allowed=[tool_pb2.ToolSelector(server=each.server, tool=each.tool) for each in access.allowed],
        excluded=[tool_pb2.ToolSelector(server=each.server, tool=each.tool) for each in access.excluded],
    )


def _answer(result: tool_pb2.ToolResult) -> ToolAnswer:
    parts = []
    blobs = []
    for content in result.content:
        which = content.WhichOneof("part")
        if which == "text":
            parts.append(content.text)
        elif which == "blob":
            parts.append(f"[{content.blob.mime_type}, {len(content.blob.data)} bytes]")
            blobs.append(ToolBlob(content.blob.mime_type, content.blob.data))
        elif which == "link":
            parts.append(f"[{content.link.name}]({content.link.uri})")
    text = "\n".join(parts) if parts else result.structured_json
    return ToolAnswer(text, result.structured_json, result.is_error, blobs)


@asynccontextmanager
async def open_host_toolbox(channel: ServiceChannel) -> AsyncIterator[HostToolbox]:
    """Open the toolbox; leaving ends its stream, and with it the calls on it."""
    toolbox = HostToolbox(channel)
    async with open_task_group() as group:
        keeping = group.create_task(toolbox.keep_stream())
        try:
            yield toolbox
        finally:
            keeping.cancel()
