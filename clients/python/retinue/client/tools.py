"""The MCP host's tools as a caller sees them."""

from collections.abc import AsyncIterator, Sequence

from retinue.client.channel import ServiceChannel
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc, tool_pb2

CONNECT_TIMEOUT_S = 120.0
"""For a list of tools: it waits for servers that have to start first."""


class Tools:
    """Calls of the McpHostService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.McpHostServiceStub(channel.channel)
        self._namespace = namespace

    async def list(
        self, servers: Sequence[tool_pb2.ServerRef]
    ) -> tuple[list[tool_pb2.Tool], list[tool_pb2.ServerFailure]]:
        """Return the tools of servers, and the servers that could not be listed."""
        tools: list[tool_pb2.Tool] = []
        failures: list[tool_pb2.ServerFailure] = []
        token = ""
        while True:
            request = service_pb2.ListToolsRequest(
                namespace=self._namespace, servers=servers, page_token=token
            )
            response = await self._channel.unary(self._stub.ListTools, request, timeout_s=CONNECT_TIMEOUT_S)
            tools.extend(response.tools)
            failures.extend(response.failures)
            token = response.next_page_token
            if not token:
                return tools, failures

    async def call(
        self, server: str, tool: str, arguments_json: str = "{}", *, idempotency_key: str = ""
    ) -> AsyncIterator[service_pb2.CallToolResponse]:
        """Call a tool; yield progress as it comes, then its result. Closing the iterator cancels the call."""
        call = tool_pb2.ToolCall(
            namespace=self._namespace,
            server=tool_pb2.ServerRef(name=server),
            tool=tool,
            arguments_json=arguments_json,
            idempotency_key=idempotency_key,
        )
        async for response in self._channel.stream(
            self._stub.CallTool, service_pb2.CallToolRequest(call=call)
        ):
            yield response
