"""The MCP host's tools as a caller sees them."""

from collections.abc import AsyncIterator, Mapping, Sequence

from retinue.client.channel import ServiceChannel
from retinue.mcphost.v1 import resource_pb2, server_request_pb2, service_pb2, service_pb2_grpc, tool_pb2

CONNECT_TIMEOUT_S = 120.0
"""For a list of tools: it waits for servers that have to start first."""

Answer = (
    server_request_pb2.ElicitationAnswer
    | server_request_pb2.SamplingAnswer
    | server_request_pb2.ServerRequestFailure
)
"""What a server is told that asked in the middle of a call."""


class Tools:
    """Calls of the McpHostService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.McpHostServiceStub(channel.channel)
        self._namespace = namespace

    async def list(
        self,
        servers: Sequence[tool_pb2.ServerRef] = (),
        *,
        labels: Mapping[str, str] | None = None,
        access: tool_pb2.ToolAccess | None = None,
        scope: resource_pb2.CallerScope | None = None,
    ) -> tuple[list[tool_pb2.Tool], list[tool_pb2.ServerFailure]]:
        """Return the tools of servers, and the servers that could not be listed.

        The servers are named, or those whose components have all `labels`. `access` leaves out tools, `scope`
        says whose connection is meant where a server's is not shared.
        """
        tools: list[tool_pb2.Tool] = []
        failures: list[tool_pb2.ServerFailure] = []
        token = ""
        while True:
            request = service_pb2.ListToolsRequest(
                namespace=self._namespace,
                servers=servers,
                labels=labels,
                access=access,
                scope=scope,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListTools, request, timeout_s=CONNECT_TIMEOUT_S)
            tools.extend(response.tools)
            failures.extend(response.failures)
            token = response.next_page_token
            if not token:
                return tools, failures

    async def call(
        self,
        server: str,
        tool: str,
        arguments_json: str = "{}",
        *,
        idempotency_key: str = "",
        accepts_elicitation: bool = False,
        accepts_sampling: bool = False,
        access: tool_pb2.ToolAccess | None = None,
        scope: resource_pb2.CallerScope | None = None,
    ) -> AsyncIterator[service_pb2.CallToolResponse]:
        """Call a tool; yield progress as it comes, then its result. Closing the iterator cancels the call.

        Where the caller accepts it, a `request` of the server may come between: `answer` answers it.
        """
        call = tool_pb2.ToolCall(
            namespace=self._namespace,
            server=tool_pb2.ServerRef(name=server),
            tool=tool,
            arguments_json=arguments_json,
            idempotency_key=idempotency_key,
            accepts_elicitation=accepts_elicitation,
            accepts_sampling=accepts_sampling,
            access=access,
            session_id=scope.session_id if scope else "",
            root_run_id=scope.root_run_id if scope else "",
        )
        async for response in self._channel.stream(
            self._stub.CallTool, service_pb2.CallToolRequest(call=call)
        ):
            yield response

    async def answer(self, request_id: str, answer: Answer) -> None:
        """Answer what a server asked in the middle of a call, once.

        Raises McpServerRequestNotFoundError where nobody waits for it any more, InvalidArgumentError for an
        answer to another kind of question.
        """
        request = service_pb2.AnswerServerRequestRequest(request_id=request_id)
        if isinstance(answer, server_request_pb2.ElicitationAnswer):
            request.elicitation.CopyFrom(answer)
        elif isinstance(answer, server_request_pb2.SamplingAnswer):
            request.sampling.CopyFrom(answer)
        else:
            request.failure.CopyFrom(answer)
        await self._channel.unary(self._stub.AnswerServerRequest, request)
