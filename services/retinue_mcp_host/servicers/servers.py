"""The McpServerService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from retinue.errors import InvalidArgumentError, Violation
from retinue.mcphost.v1 import server_pb2, service_pb2, service_pb2_grpc, tool_pb2
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.convert import DEFAULT_NAMESPACE, failure_to_proto
from retinue_mcp_host.servers.log import LogReader, ServerLogs
from retinue_mcp_host.servers.secrets import SecretsCheck
from retinue_mcp_host.servers.servers import Servers
from retinue_mcp_host.servicers.convert_servers import entries_to_proto, log_level_from_proto, server_to_proto

HEARTBEAT_S = 20.0
"""How long a watch is silent at most."""
MAX_ENTRIES = 200
"""Of one message of a log."""

Context = grpc.aio.ServicerContext[Any, Any]


class McpServerServicer(service_pb2_grpc.McpServerServiceServicer):
    """Shows servers, restarts them, and tells what they log."""

    def __init__(self, servers: Servers, states: Changes, logs: ServerLogs, secrets: SecretsCheck) -> None:
        self._servers = servers
        self._states = states
        self._logs = logs
        self._secrets = secrets

    async def ListServers(
        self,
        request: server_pb2.ListServersRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> server_pb2.ListServersResponse:
        """See the proto."""
        place = decode_page_token(request.page_token, str)
        page = await self._servers.page(
            request.namespace or DEFAULT_NAMESPACE,
            labels=request.labels,
            capabilities=request.capabilities,
            after=str(place[0]) if place else "",
            limit=page_limit(request.page_size),
        )
        return server_pb2.ListServersResponse(
            servers=[server_to_proto(each) for each in page.servers],
            failures=[
                tool_pb2.ServerFailure(server=name, failure=failure_to_proto(error))
                for name, error in page.failures.items()
            ],
            next_page_token=encode_page_token([page.next_name]) if page.next_name else "",
        )

    async def GetServer(
        self,
        request: server_pb2.GetServerRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> server_pb2.GetServerResponse:
        """See the proto."""
        view = await self._servers.get(request.namespace or DEFAULT_NAMESPACE, named(request.name))
        return server_pb2.GetServerResponse(server=server_to_proto(view))

    async def WatchServers(
        self,
        request: server_pb2.WatchServersRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[server_pb2.WatchServersResponse]:
        """See the proto."""
        namespace = request.namespace or DEFAULT_NAMESPACE
        async for change in self._servers.watch(namespace, request.names, self._states, HEARTBEAT_S):
            yield server_pb2.WatchServersResponse(
                servers=[server_to_proto(each) for each in change.servers], gone=change.gone
            )

    async def RestartServer(
        self,
        request: server_pb2.RestartServerRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> server_pb2.RestartServerResponse:
        """See the proto."""
        view = await self._servers.restart(request.namespace or DEFAULT_NAMESPACE, named(request.name))
        return server_pb2.RestartServerResponse(server=server_to_proto(view))

    async def WatchServerLog(
        self,
        request: server_pb2.WatchServerLogRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[server_pb2.WatchServerLogResponse]:
        """See the proto."""
        namespace = request.namespace or DEFAULT_NAMESPACE
        level = log_level_from_proto(request.level)
        await self._servers.get(namespace, named(request.name))
        reader = LogReader(self._logs.ring(namespace, request.name), level)
        reader.open()
        try:
            while True:
                entries, dropped = reader.read()
                for first in range(0, max(len(entries), 1), MAX_ENTRIES):
                    yield server_pb2.WatchServerLogResponse(
                        entries=entries_to_proto(entries[first : first + MAX_ENTRIES]),
                        dropped=0 if first else dropped,
                    )
                if not request.follow:
                    return
                await reader.wait(HEARTBEAT_S)
        finally:
            reader.close()

    async def CheckSecrets(
        self,
        request: service_pb2.CheckSecretsRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> service_pb2.CheckSecretsResponse:
        """See the proto."""
        problems = await self._secrets.check(request.namespace or DEFAULT_NAMESPACE)
        return service_pb2.CheckSecretsResponse(problems=problems)


def named(name: str) -> str:
    """The name of a server. Raises InvalidArgumentError where it is empty."""
    if not name:
        raise InvalidArgumentError(
            "name is empty: name a server", violations=[Violation("name", "must be set")]
        )
    return name
