"""Which secrets of MCP servers do not resolve where this host runs."""

import asyncio
from collections.abc import Sequence

from retinue.client import Components, ServiceChannel
from retinue.common.v1.secret_pb2 import SecretProblem
from retinue.registry.v1.component_pb2 import Component
from retinue_kit.allowed import Allowed
from retinue_kit.secret_problems import secret_problems
from retinue_mcp_host.convert import MCP_SERVER
from retinue_mcp_host.servers.rules import is_by_api, secret_fields


class SecretsCheck:
    """Looks at the servers of a namespace as a connection would use them."""

    def __init__(self, registry: ServiceChannel, allowed: Allowed) -> None:
        self._registry = registry
        self._allowed = allowed

    async def check(self, namespace: str) -> list[SecretProblem]:
        """What does not resolve or is not allowed, in the order of name and field."""
        components = Components(self._registry, namespace)
        servers = [each async for each in components.list(MCP_SERVER, page_size=1000)]
        return await asyncio.to_thread(self._problems, servers)

    def _problems(self, servers: Sequence[Component]) -> list[SecretProblem]:
        return [
            problem
            for each in servers
            for problem in secret_problems(
                "mcp_server",
                each.name,
                secret_fields(each.mcp_server),
                self._allowed if is_by_api(each) else None,
            )
        ]
