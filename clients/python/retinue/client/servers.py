"""MCP servers, with the state of their connections, as a caller sees them."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeAlias

from retinue.client.channel import ServiceChannel
from retinue.mcphost.v1 import login_pb2, server_pb2, service_pb2_grpc, tool_pb2

CONNECT_TIMEOUT_S = 120.0
"""Where servers may have to start first."""

LogLevel: TypeAlias = server_pb2.LogLevel.ValueType


class Servers:
    """Calls of the McpServerService and the McpLoginService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.McpServerServiceStub(channel.channel)
        self._logins = service_pb2_grpc.McpLoginServiceStub(channel.channel)
        self._namespace = namespace

    async def list(
        self,
        *,
        labels: Mapping[str, str] | None = None,
        capabilities: Sequence[str] = (),
        page_size: int = 100,
    ) -> tuple[list[server_pb2.Server], list[tool_pb2.ServerFailure]]:
        """Return servers in the order of names, and those of which it could not be seen what they can do.

        With `labels` those that have all of them; with `capabilities` (`tools`, `resources`,
        `resource_subscriptions`, `prompts`, `completions`, `logging`) those that have all of these: servers
        that were not connected yet are connected for that.
        """
        servers: list[server_pb2.Server] = []
        failures: list[tool_pb2.ServerFailure] = []
        token = ""
        while True:
            request = server_pb2.ListServersRequest(
                namespace=self._namespace,
                labels=labels,
                capabilities=capabilities,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListServers, request, timeout_s=CONNECT_TIMEOUT_S)
            servers.extend(response.servers)
            failures.extend(response.failures)
            token = response.next_page_token
            if not token:
                return servers, failures

    async def get(self, name: str) -> server_pb2.Server:
        """Return a server."""
        request = server_pb2.GetServerRequest(namespace=self._namespace, name=name)
        return (await self._channel.unary(self._stub.GetServer, request)).server

    async def watch(self, names: Sequence[str] = ()) -> AsyncIterator[server_pb2.WatchServersResponse]:
        """Yield servers as they are, then those that change; all where none is named.

        It fails when the connection does: watch again.
        """
        request = server_pb2.WatchServersRequest(namespace=self._namespace, names=names)
        async for response in self._channel.stream(self._stub.WatchServers, request):
            yield response

    async def restart(self, name: str) -> server_pb2.Server:
        """Close a server's connections, whatever its breaker says, connect it again and return it.

        Raises the error with which it cannot be connected.
        """
        request = server_pb2.RestartServerRequest(namespace=self._namespace, name=name)
        response = await self._channel.unary(self._stub.RestartServer, request, timeout_s=CONNECT_TIMEOUT_S)
        return response.server

    async def start_login(self, name: str, redirect_uri: str = "") -> login_pb2.StartLoginResponse:
        """Begin a person's login to a server; they open `authorization_url` in a browser.

        `redirect_uri` is where the browser goes afterwards, an address of the person's machine; empty where
        the server's config has one.
        """
        request = login_pb2.StartLoginRequest(namespace=self._namespace, name=name, redirect_uri=redirect_uri)
        return await self._channel.unary(self._logins.StartLogin, request, timeout_s=CONNECT_TIMEOUT_S)

    async def finish_login(self, login_id: str, redirect_url: str) -> server_pb2.Server:
        """Finish a login with the whole address to which the browser was sent, and return the server."""
        request = login_pb2.FinishLoginRequest(login_id=login_id, redirect_url=redirect_url)
        response = await self._channel.unary(self._logins.FinishLogin, request, timeout_s=CONNECT_TIMEOUT_S)
        return response.server

    async def logout(self, name: str) -> bool:
        """Forget the login to a server; return whether its authorization server has taken the tokens back."""
        request = login_pb2.LogoutRequest(namespace=self._namespace, name=name)
        response = await self._channel.unary(self._logins.Logout, request, timeout_s=CONNECT_TIMEOUT_S)
        return response.revoked

    async def log(
        self,
        name: str,
        *,
        level: LogLevel = server_pb2.LOG_LEVEL_UNSPECIFIED,
        follow: bool = False,
    ) -> AsyncIterator[server_pb2.WatchServerLogResponse]:
        """Yield what a server has logged, and with `follow` what it will, the oldest first.

        `level` is the least grave of its messages to yield, info where it is not set; lines of stderr have
        none and are always there.
        """
        request = server_pb2.WatchServerLogRequest(
            namespace=self._namespace, name=name, level=level, follow=follow
        )
        async for response in self._channel.stream(self._stub.WatchServerLog, request):
            yield response
