"""The McpContentService on the wire."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import structlog

from retinue.errors import CallCancelledError, InternalError, InvalidArgumentError, RetinueError, Violation
from retinue.mcphost.v1 import resource_pb2, service_pb2_grpc
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.content.contents import PROMPTS, RESOURCES, TEMPLATES, Contents, Cursor
from retinue_mcp_host.content.items import Prompt, Resource, ResourceTemplate
from retinue_mcp_host.content.resource_watch import ResourceWatch
from retinue_mcp_host.servers.routes import Routes
from retinue_mcp_host.servicers.convert_content import (
    completions_to_proto,
    contents_to_proto,
    filled_prompt_to_proto,
    missing,
    place_from_proto,
    prompt_to_proto,
    reference_from_proto,
    resource_to_proto,
    template_to_proto,
)

log = structlog.get_logger()

HEARTBEAT_S = 20.0
"""How long a watch is silent at most."""
TOGETHER_S = 0.05
"""Changes within this time are told as one."""

Context = grpc.aio.ServicerContext[Any, Any]


class McpContentServicer(service_pb2_grpc.McpContentServiceServicer):
    """Resources, prompts and completions for callers. Its watches run in the task group that it is given."""

    def __init__(
        self, contents: Contents, routes: Routes, changes: Changes, tasks: asyncio.TaskGroup
    ) -> None:
        self._contents = contents
        self._routes = routes
        self._changes = changes
        self._tasks = tasks
        self._watches: set[asyncio.Task[RetinueError | None]] = set()

    async def ListResources(
        self,
        request: resource_pb2.ListResourcesRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.ListResourcesResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        found, after = await self._contents.page(
            place, RESOURCES, _cursor(request.page_token), page_limit(request.page_size)
        )
        return resource_pb2.ListResourcesResponse(
            resources=[resource_to_proto(each) for each in found if isinstance(each, Resource)],
            next_page_token=_token(after),
        )

    async def ListResourceTemplates(
        self,
        request: resource_pb2.ListResourceTemplatesRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.ListResourceTemplatesResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        found, after = await self._contents.page(
            place, TEMPLATES, _cursor(request.page_token), page_limit(request.page_size)
        )
        return resource_pb2.ListResourceTemplatesResponse(
            templates=[template_to_proto(each) for each in found if isinstance(each, ResourceTemplate)],
            next_page_token=_token(after),
        )

    async def ReadResource(
        self,
        request: resource_pb2.ReadResourceRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.ReadResourceResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        if not request.uri:
            raise missing("uri")
        found = await self._contents.read(place, request.uri)
        return resource_pb2.ReadResourceResponse(contents=[contents_to_proto(each) for each in found])

    async def WatchResource(
        self, request: resource_pb2.WatchResourceRequest, context: Context
    ) -> AsyncIterator[resource_pb2.WatchResourceResponse]:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        if not request.uri:
            raise missing("uri")
        watch = ResourceWatch(place, request.uri, self._routes, self._changes)
        task = self._tasks.create_task(_run(watch))
        self._watches.add(task)
        task.add_done_callback(self._watches.discard)
        # A call that is cancelled while it sends leaves the generator where it stands; this comes always.
        context.add_done_callback(lambda _context: task.cancel())  # type: ignore[arg-type]
        try:
            await watch.stands.wait()
            _raise_if_over(task)
            yield resource_pb2.WatchResourceResponse()
            while True:
                changed = await watch.told.changes(HEARTBEAT_S)
                _raise_if_over(task)
                for uri in changed or [""]:
                    yield resource_pb2.WatchResourceResponse(changed_uri=uri)
                await asyncio.sleep(TOGETHER_S)
        finally:
            task.cancel()

    async def ListPrompts(
        self,
        request: resource_pb2.ListPromptsRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.ListPromptsResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        found, after = await self._contents.page(
            place, PROMPTS, _cursor(request.page_token), page_limit(request.page_size)
        )
        return resource_pb2.ListPromptsResponse(
            prompts=[prompt_to_proto(each) for each in found if isinstance(each, Prompt)],
            next_page_token=_token(after),
        )

    async def GetPrompt(
        self,
        request: resource_pb2.GetPromptRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.GetPromptResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        if not request.name:
            raise missing("name")
        return filled_prompt_to_proto(await self._contents.prompt(place, request.name, request.arguments))

    async def Complete(
        self,
        request: resource_pb2.CompleteRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> resource_pb2.CompleteResponse:
        """See the proto."""
        place = place_from_proto(request.namespace, request.server, request.scope)
        if not request.argument:
            raise missing("argument")
        found = await self._contents.complete(
            place, reference_from_proto(request), request.argument, request.value, request.given
        )
        return completions_to_proto(found)

    def close(self) -> None:
        """End the watches."""
        for task in tuple(self._watches):
            task.cancel()


async def _run(watch: ResourceWatch) -> RetinueError | None:
    """Watch until cancelled; the error with which it could not, for who reads the stream."""
    try:
        await watch.run()
    except RetinueError as error:
        return error
    except Exception:
        log.exception("a watch failed by a bug")
        return InternalError("internal error; the MCP host's log has the details")
    finally:
        watch.stands.set()
        watch.told.wake()
    return None


def _raise_if_over(task: "asyncio.Task[RetinueError | None]") -> None:
    if not task.done():
        return
    error = None if task.cancelled() else task.result()
    raise error or CallCancelledError("the MCP host is stopping")


def _cursor(token: str) -> Cursor:
    """Where a page begins. Raises InvalidArgumentError."""
    place = decode_page_token(token, str, int, int)
    if place is None:
        return Cursor()
    cursor = Cursor(str(place[0]), int(place[1]), int(place[2]))
    if cursor.skip < 0 or cursor.pages < 0:
        raise InvalidArgumentError(
            "page_token is not one that this list gave: begin again without it",
            violations=[Violation("page_token", "must be the next_page_token of the page before")],
        )
    return cursor


def _token(after: Cursor | None) -> str:
    return encode_page_token(after) if after is not None else ""
