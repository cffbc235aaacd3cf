"""What MCP servers have beside tools, as a caller of the MCP host sees it."""

from collections.abc import AsyncIterator, Mapping, Sequence

from retinue.client.channel import ServiceChannel
from retinue.client.tools import CONNECT_TIMEOUT_S
from retinue.mcphost.v1 import resource_pb2, service_pb2_grpc, tool_pb2


class Contents:
    """Calls of the McpContentService in one namespace. All raise a RetinueError.

    `scope` says whose connection is meant where a server's is not shared.
    """

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.McpContentServiceStub(channel.channel)
        self._namespace = namespace

    async def resources(
        self, server: str, *, scope: resource_pb2.CallerScope | None = None, page_size: int = 0
    ) -> AsyncIterator[resource_pb2.Resource]:
        """Yield the resources of a server, fetching pages as they are needed."""
        token = ""
        while True:
            request = resource_pb2.ListResourcesRequest(
                namespace=self._namespace,
                server=tool_pb2.ServerRef(name=server),
                scope=scope,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(
                self._stub.ListResources, request, timeout_s=CONNECT_TIMEOUT_S
            )
            for resource in response.resources:
                yield resource
            token = response.next_page_token
            if not token:
                return

    async def templates(
        self, server: str, *, scope: resource_pb2.CallerScope | None = None, page_size: int = 0
    ) -> AsyncIterator[resource_pb2.ResourceTemplate]:
        """Yield the resource templates of a server, fetching pages as they are needed."""
        token = ""
        while True:
            request = resource_pb2.ListResourceTemplatesRequest(
                namespace=self._namespace,
                server=tool_pb2.ServerRef(name=server),
                scope=scope,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(
                self._stub.ListResourceTemplates, request, timeout_s=CONNECT_TIMEOUT_S
            )
            for template in response.templates:
                yield template
            token = response.next_page_token
            if not token:
                return

    async def read(
        self, server: str, uri: str, *, scope: resource_pb2.CallerScope | None = None
    ) -> Sequence[resource_pb2.ResourceContents]:
        """Return what a resource holds."""
        request = resource_pb2.ReadResourceRequest(
            namespace=self._namespace, server=tool_pb2.ServerRef(name=server), scope=scope, uri=uri
        )
        response = await self._channel.unary(self._stub.ReadResource, request, timeout_s=CONNECT_TIMEOUT_S)
        return response.contents

    async def watch(
        self, server: str, uri: str, *, scope: resource_pb2.CallerScope | None = None
    ) -> AsyncIterator[str]:
        """Yield the empty text once the resource is watched, then the address of what changes in it.

        Closing the iterator ends the watch.
        """
        request = resource_pb2.WatchResourceRequest(
            namespace=self._namespace, server=tool_pb2.ServerRef(name=server), scope=scope, uri=uri
        )
        stands = False
        async for response in self._channel.stream(self._stub.WatchResource, request):
            if response.changed_uri or not stands:
                yield response.changed_uri
            stands = True

    async def prompts(
        self, server: str, *, scope: resource_pb2.CallerScope | None = None, page_size: int = 0
    ) -> AsyncIterator[resource_pb2.Prompt]:
        """Yield the prompts of a server, fetching pages as they are needed."""
        token = ""
        while True:
            request = resource_pb2.ListPromptsRequest(
                namespace=self._namespace,
                server=tool_pb2.ServerRef(name=server),
                scope=scope,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListPrompts, request, timeout_s=CONNECT_TIMEOUT_S)
            for prompt in response.prompts:
                yield prompt
            token = response.next_page_token
            if not token:
                return

    async def prompt(
        self,
        server: str,
        name: str,
        arguments: Mapping[str, str] | None = None,
        *,
        scope: resource_pb2.CallerScope | None = None,
    ) -> resource_pb2.GetPromptResponse:
        """Return a prompt with its arguments filled in."""
        request = resource_pb2.GetPromptRequest(
            namespace=self._namespace,
            server=tool_pb2.ServerRef(name=server),
            scope=scope,
            name=name,
            arguments=arguments,
        )
        return await self._channel.unary(self._stub.GetPrompt, request, timeout_s=CONNECT_TIMEOUT_S)

    async def complete(
        self,
        server: str,
        argument: str,
        value: str,
        *,
        prompt: str = "",
        uri_template: str = "",
        given: Mapping[str, str] | None = None,
        scope: resource_pb2.CallerScope | None = None,
    ) -> resource_pb2.CompleteResponse:
        """Return how an argument of a prompt or of a resource template may go on."""
        request = resource_pb2.CompleteRequest(
            namespace=self._namespace,
            server=tool_pb2.ServerRef(name=server),
            scope=scope,
            argument=argument,
            value=value,
            given=given,
        )
        if prompt:
            request.prompt = prompt
        else:
            request.uri_template = uri_template
        return await self._channel.unary(self._stub.Complete, request, timeout_s=CONNECT_TIMEOUT_S)
