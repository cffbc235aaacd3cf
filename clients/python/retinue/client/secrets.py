"""Whether the secrets that components refer to are where the services look for them."""

from retinue.client.channel import ServiceChannel
from retinue.common.v1.secret_pb2 import SecretProblem
from retinue.engine.v1 import service_pb2 as engine_pb2
from retinue.engine.v1 import service_pb2_grpc as engine_grpc
from retinue.mcphost.v1 import service_pb2 as host_pb2
from retinue.mcphost.v1 import service_pb2_grpc as host_grpc


class Secrets:
    """Asks the services that resolve secrets, in one namespace. No answer holds a value."""

    def __init__(self, engine: ServiceChannel, mcp_host: ServiceChannel, namespace: str) -> None:
        self._engine = engine
        self._mcp_host = mcp_host
        self._diagnostics = engine_grpc.DiagnosticsServiceStub(engine.channel)
        self._servers = host_grpc.McpServerServiceStub(mcp_host.channel)
        self._namespace = namespace

    async def of_llms(self) -> list[SecretProblem]:
        """Return the references of llms and custom workflows that the engine cannot or may not resolve."""
        request = engine_pb2.CheckSecretsRequest(namespace=self._namespace)
        return list((await self._engine.unary(self._diagnostics.CheckSecrets, request)).problems)

    async def of_mcp_servers(self) -> list[SecretProblem]:
        """Return the references of MCP servers that the MCP host cannot or may not resolve."""
        request = host_pb2.CheckSecretsRequest(namespace=self._namespace)
        return list((await self._mcp_host.unary(self._servers.CheckSecrets, request)).problems)
