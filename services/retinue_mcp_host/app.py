"""What the MCP host is made of, opened in the order in which one part needs another."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from retinue.client import open_channel
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc
from retinue_kit.server import Mount
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.calls.calls import ToolCalls
from retinue_mcp_host.calls.counts import CallCounts
from retinue_mcp_host.calls.server_requests import ServerRequests
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections.pool import open_connections
from retinue_mcp_host.content.contents import Contents
from retinue_mcp_host.logins.flows import LoginFlows
from retinue_mcp_host.logins.table import open_logins
from retinue_mcp_host.model import Limits
from retinue_mcp_host.servers.catalogue import open_catalogue
from retinue_mcp_host.servers.labelled import LabelledServers
from retinue_mcp_host.servers.log import ServerLogs
from retinue_mcp_host.servers.prewarm import open_prewarmer
from retinue_mcp_host.servers.routes import Routes
from retinue_mcp_host.servers.secrets import SecretsCheck
from retinue_mcp_host.servers.servers import Servers
from retinue_mcp_host.servers.specs import ServerSpecs
from retinue_mcp_host.servers.supervision import Supervision
from retinue_mcp_host.servicers.content import McpContentServicer
from retinue_mcp_host.servicers.logins import McpLoginServicer
from retinue_mcp_host.servicers.servers import McpServerServicer
from retinue_mcp_host.servicers.tools import McpHostServicer
from retinue_mcp_host.settings import McpHostSettings

_SERVICE = service_pb2.DESCRIPTOR.services_by_name["McpHostService"].full_name
_SERVERS = service_pb2.DESCRIPTOR.services_by_name["McpServerService"].full_name
_LOGINS = service_pb2.DESCRIPTOR.services_by_name["McpLoginService"].full_name
_CONTENT = service_pb2.DESCRIPTOR.services_by_name["McpContentService"].full_name


@asynccontextmanager
async def open_app(settings: McpHostSettings) -> AsyncIterator[Sequence[Mount]]:
    """Open the host and yield its service. Leaving ends every connection, and every server it started."""
    changes = Changes()
    limits = Limits(
        max_result_bytes=settings.max_result_bytes,
        max_server_message_bytes=settings.max_server_message_bytes,
    )
    states = Changes()
    supervision = Supervision(states)
    logs = ServerLogs()
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(
            open_channel("registry", settings.registry_address, settings.access)
        )
        logins = await stack.enter_async_context(open_logins(states, settings.logins_file))
        connections = await stack.enter_async_context(
            open_connections(changes, supervision, logs, logins, limits, settings.max_connections)
        )
        requests = ServerRequests()
        routes = Routes(ServerSpecs(registry, settings.allowed), connections)
        catalogue = await stack.enter_async_context(open_catalogue(registry, states))
        await stack.enter_async_context(
            open_prewarmer(catalogue, states, routes, connections, settings.prewarm_namespaces)
        )
        servers = Servers(registry, catalogue, routes, connections, supervision, logs, logins)
        server_servicer = McpServerServicer(servers, states, logs, SecretsCheck(registry, settings.allowed))
        login_servicer = McpLoginServicer(LoginFlows(logins), routes, servers, connections)
        calls = ToolCalls(routes, requests, CallCounts(), settings.max_request_bytes)
        tasks = await stack.enter_async_context(open_task_group())
        servicer = McpHostServicer(
            calls, LabelledServers(registry), requests, changes, tasks, settings.max_stream_calls
        )
        stack.callback(servicer.close)
        contents = Contents(routes, settings.max_result_bytes)
        content_servicer = McpContentServicer(contents, routes, changes, tasks)
        stack.callback(content_servicer.close)
        yield [
            Mount(
                _SERVICE,
                lambda server: service_pb2_grpc.add_McpHostServiceServicer_to_server(servicer, server),
            ),
            Mount(
                _SERVERS,
                lambda server: service_pb2_grpc.add_McpServerServiceServicer_to_server(
                    server_servicer, server
                ),
            ),
            Mount(
                _LOGINS,
                lambda server: service_pb2_grpc.add_McpLoginServiceServicer_to_server(login_servicer, server),
            ),
            Mount(
                _CONTENT,
                lambda server: service_pb2_grpc.add_McpContentServiceServicer_to_server(
                    content_servicer, server
                ),
            ),
        ]
