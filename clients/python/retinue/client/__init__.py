"""The typed asyncio client: `open_client()` gives runs, inputs, sessions, components and tools."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from retinue.client.channel import Access, ServiceChannel, open_channel
from retinue.client.components import Components
from retinue.client.contents import Contents
from retinue.client.inputs import Inputs
from retinue.client.memories import Memories
from retinue.client.runs import Runs
from retinue.client.secrets import Secrets
from retinue.client.servers import Servers
from retinue.client.sessions import Sessions
from retinue.client.tools import Tools

__all__ = [
    "Access",
    "Client",
    "Components",
    "Contents",
    "Inputs",
    "Memories",
    "Runs",
    "Secrets",
    "Servers",
    "ServiceChannel",
    "Sessions",
    "Tools",
    "open_channel",
    "open_client",
]

REGISTRY_ADDRESS = "127.0.0.1:7401"
MCP_HOST_ADDRESS = "127.0.0.1:7402"
ENGINE_ADDRESS = "127.0.0.1:7403"


@dataclass(frozen=True, slots=True)
class Client:
    """What can be done with a suite of services."""

    runs: Runs
    inputs: Inputs
    sessions: Sessions
    memories: Memories
    components: Components
    tools: Tools
    servers: Servers
    contents: Contents
    secrets: Secrets


@asynccontextmanager
async def open_client(
    engine: str | None = None,
    *,
    registry: str | None = None,
    mcp_host: str | None = None,
    namespace: str = "default",
    access: Access | None = None,
) -> AsyncIterator[Client]:
    """Open a client. Nothing is connected before the first call.

    Addresses are `host:port`; one that is not given is taken from RETINUE_ENGINE_ADDRESS,
    RETINUE_REGISTRY_ADDRESS, RETINUE_MCP_HOST_ADDRESS, else it is the default port on this machine.
    """
    access = access or Access.from_environment()
    engine = engine or os.environ.get("RETINUE_ENGINE_ADDRESS") or ENGINE_ADDRESS
    registry = registry or os.environ.get("RETINUE_REGISTRY_ADDRESS") or REGISTRY_ADDRESS
    mcp_host = mcp_host or os.environ.get("RETINUE_MCP_HOST_ADDRESS") or MCP_HOST_ADDRESS
    async with AsyncExitStack() as stack:
        engine_channel = await stack.enter_async_context(open_channel("engine", engine, access))
        registry_channel = await stack.enter_async_context(open_channel("registry", registry, access))
        host_channel = await stack.enter_async_context(open_channel("MCP host", mcp_host, access))
        yield Client(
            runs=Runs(engine_channel, namespace),
            inputs=Inputs(engine_channel, namespace),
            sessions=Sessions(engine_channel, namespace),
            memories=Memories(engine_channel, namespace),
            components=Components(registry_channel, namespace),
            tools=Tools(host_channel, namespace),
            servers=Servers(host_channel, namespace),
            contents=Contents(host_channel, namespace),
            secrets=Secrets(engine_channel, host_channel, namespace),
        )
