"""What the MCP host is made of, opened in the order in which one part needs another."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from retinue.client import open_channel
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue_kit.server import Mount
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.calls import ToolCalls
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections import open_connections
from retinue_mcp_host.model import Limits
from retinue_mcp_host.server_requests import ServerRequests
from retinue_mcp_host.servicer import McpHostServicer
from retinue_mcp_host.settings import McpHostSettings
from retinue_mcp_host.specs import ServerSpecs

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["McpHostService"].full_name


@asynccontextmanager
async def open_app(settings: McpHostSettings) -> AsyncIterator[Sequence[Mount]]:
    """Open the host and yield its service. Leaving ends every connection, and every server it started."""
    changes = Changes()
    limits = Limits(
        max_result_bytes=settings.max_result_bytes,
        max_server_message_bytes=settings.max_server_message_bytes,
    )
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            open_channel("registry", settings.registry_address, settings.access)
        )
        connections = await stack.enter_async_context(
            open_connections(changes, limits, settings.max_connections)
        )
        requests = ServerRequests()
        calls = ToolCalls(ServerSpecs(registry), connections, requests, settings.max_request_bytes)
        tasks = await stack.enter_async_context(open_task_group())
        servicer = McpHostServicer(calls, requests, changes, tasks, settings.max_stream_calls)
        stack.callback(servicer.close)
        yield [
            Mount(
                _SERVICE,
                lambda server: service_pb2_grpc.add_McpHostServiceServicer_to_server(servicer, server),
            )
        ]
