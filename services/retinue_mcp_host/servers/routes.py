"""From a server's name to the connection of a caller."""

from retinue_mcp_host.connections.connection import Connection
from retinue_mcp_host.connections.pool import Connections
from retinue_mcp_host.model import SHARED, CallerScope, ServerSpec
from retinue_mcp_host.servers.scopes import scope_of
from retinue_mcp_host.servers.specs import ServerSpecs


class Routes:
    """Knows where a server's config is, and whose connection a caller takes."""

    def __init__(self, specs: ServerSpecs, connections: Connections) -> None:
        self._specs = specs
        self._connections = connections

    async def spec(self, namespace: str, server: str, version: int) -> ServerSpec:
        """The config of a server at a version, 0 for the current one. Raises RetinueError."""
        spec = self._specs.find(namespace, server, version)
        if spec is None:
            spec = await self._specs.get(namespace, server, version)
            if not version:
                self._connections.supersede(namespace, server, spec.version)
        return spec

    async def connection(self, namespace: str, server: str, version: int, caller: CallerScope) -> Connection:
        """The open connection of a caller, connected where it is not. Raises RetinueError."""
        spec = self._specs.find(namespace, server, version) or await self.spec(namespace, server, version)
        scope = SHARED if spec.scope == "shared" else scope_of(spec, caller)
        return self._connections.find(spec, scope) or await self._connections.connect(spec, scope)

    def close_scope(self, namespace: str, scope: str) -> None:
        """Close the connections of a session or run tree that is over."""
        self._connections.close_scope(namespace, scope)
