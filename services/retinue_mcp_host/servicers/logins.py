"""The McpLoginService on the wire."""

from typing import Any

import grpc.aio

from retinue.errors import ComponentNotFoundError
from retinue.mcphost.v1 import login_pb2, service_pb2_grpc
from retinue_mcp_host.connections.pool import Connections
from retinue_mcp_host.convert import DEFAULT_NAMESPACE
from retinue_mcp_host.logins.flows import LoginFlows
from retinue_mcp_host.servers.routes import Routes
from retinue_mcp_host.servers.servers import Servers
from retinue_mcp_host.servicers.convert_servers import server_to_proto
from retinue_mcp_host.servicers.servers import named

Context = grpc.aio.ServicerContext[Any, Any]


class McpLoginServicer(service_pb2_grpc.McpLoginServiceServicer):
    """Logs people in and out."""

    def __init__(self, flows: LoginFlows, routes: Routes, servers: Servers, connections: Connections) -> None:
        self._flows = flows
        self._routes = routes
        self._servers = servers
        self._connections = connections

    async def StartLogin(
        self,
        request: login_pb2.StartLoginRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> login_pb2.StartLoginResponse:
        """See the proto."""
        spec = await self._routes.spec(request.namespace or DEFAULT_NAMESPACE, named(request.name), 0)
        started = await self._flows.start(spec, request.redirect_uri)
        response = login_pb2.StartLoginResponse(
            login_id=started.login_id,
            authorization_url=started.authorization_url,
            redirect_uri=started.redirect_uri,
        )
        response.expire_time.FromMicroseconds(started.expire_us)
        return response

    async def FinishLogin(
        self,
        request: login_pb2.FinishLoginRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> login_pb2.FinishLoginResponse:
        """See the proto."""
        key = await self._flows.finish(request.login_id, request.redirect_url)
        view = await self._servers.get(key.namespace, key.server)
        return login_pb2.FinishLoginResponse(server=server_to_proto(view))

    async def Logout(
        self,
        request: login_pb2.LogoutRequest,
        context: Context,  # noqa: ARG002 - gRPC's signature
    ) -> login_pb2.LogoutResponse:
        """See the proto."""
        namespace, name = request.namespace or DEFAULT_NAMESPACE, named(request.name)
        try:
            spec = await self._routes.spec(namespace, name, 0)
        except ComponentNotFoundError:
            spec = None
        revoked = await self._flows.logout(namespace, name, spec)
        self._connections.disconnect(namespace, name)
        return login_pb2.LogoutResponse(revoked=revoked)
