"""A real MCP host on a free port, with a registry that a test fills, and MCP servers as processes."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from retinue.client import Access, Servers, Tools, open_channel
from retinue.errors import ComponentNotFoundError
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc, tool_pb2
from retinue.registry.v1 import component_pb2, mcp_server_pb2
from retinue.registry.v1 import service_pb2 as registry_pb2
from retinue.registry.v1 import service_pb2_grpc as registry_grpc
from retinue.rpc_status import status_from_error
from retinue_kit.server import open_server
from retinue_mcp_host.app import open_app
from retinue_mcp_host.settings import McpHostSettings

SERVERS = Path(__file__).parents[2] / "servers"
SOON_S = 10.0
"""Ten times and more what anything here takes."""


async def until(condition: Callable[[], Any], what: str, within_s: float = SOON_S) -> Any:
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)
    return found


async def until_awaited(ask: Callable[[], Awaitable[Any]], what: str, within_s: float = SOON_S) -> Any:
    """Ask until the answer is true, and return it."""
    end = time.monotonic() + within_s
    while not (found := await ask()):
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.02)
    return found


def answers(port: int) -> bool:
    """Whether something listens."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.1).close()
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def serve_http(script: str, *ways: str) -> AsyncIterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a server of tests/servers that speaks streamable HTTP; its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = _spawn(script, "--http", str(port), *ways)
    try:
        await until(lambda: answers(port), "the server listens")
        yield f"http://127.0.0.1:{port}/mcp", process
    finally:
        process.kill()
        process.wait()


def _spawn(script: str, *argv: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(SERVERS / script), *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Registry(registry_grpc.RegistryServiceServicer):
    """As much of a registry as the host asks for."""

    def __init__(self) -> None:
        self.components: dict[tuple[str, int], component_pb2.Component] = {}
        self.asked = 0
        self.is_away = False
        self.changes: list[registry_pb2.ComponentChange] = []
        self.changed = asyncio.Condition()

    @property
    def revision(self) -> int:
        """One for each change."""
        return len(self.changes)

    async def delete(self, name: str) -> None:
        """Delete a server."""
        component = next(each for each in self._current() if each.name == name)
        for known in [known for known in self.components if known[0] == name]:
            del self.components[known]
        self._note(registry_pb2.CHANGE_TYPE_DELETED, component)
        await self.tell()

    async def tell(self) -> None:
        """Tell those who watch."""
        async with self.changed:
            self.changed.notify_all()

    def _note(self, kind: registry_pb2.ChangeType.ValueType, component: component_pb2.Component) -> None:
        change = registry_pb2.ComponentChange(type=kind, component=component, revision=self.revision + 1)
        self.changes.append(change)

    def put(self, name: str, spec: mcp_server_pb2.McpServerSpec, labels: dict[str, str] | None = None) -> int:
        """Store the next version of a server; `tell` tells it to those who watch."""
        version = 1 + max((number for known, number in self.components if known == name), default=0)
        self.components[name, version] = component_pb2.Component(
            namespace="default",
            kind=component_pb2.COMPONENT_KIND_MCP_SERVER,
            name=name,
            version=version,
            mcp_server=spec,
            labels=labels,
        )
        self._note(registry_pb2.CHANGE_TYPE_STORED, self.components[name, version])
        return version

    async def GetComponent(  # noqa: N802 - gRPC's name
        self, request: registry_pb2.GetComponentRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> registry_pb2.GetComponentResponse:
        self.asked += 1
        await self._answer(context)
        name, version = request.component.name, request.component.version
        version = version or max((number for known, number in self.components if known == name), default=0)
        component = self.components.get((name, version))
        if component is None:
            status = status_from_error(ComponentNotFoundError(f"no mcp_server {name}", name=name))
            details = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(grpc.StatusCode.NOT_FOUND, status.message, details)
        return registry_pb2.GetComponentResponse(component=component)

    async def _answer(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if self.is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    def _current(self) -> list[component_pb2.Component]:
        newest: dict[str, component_pb2.Component] = {}
        for (name, _), component in sorted(self.components.items()):
            newest[name] = component
        return list(newest.values())

    async def ListComponents(  # noqa: N802 - gRPC's name
        self,
        request: registry_pb2.ListComponentsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> registry_pb2.ListComponentsResponse:
        await self._answer(context)
        found = [each for each in self._current() if request.labels.items() <= dict(each.labels).items()]
        return registry_pb2.ListComponentsResponse(components=found, revision=self.revision)

    async def WatchComponents(  # noqa: N802 - gRPC's name
        self,
        request: registry_pb2.WatchComponentsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[registry_pb2.WatchComponentsResponse]:
        await self._answer(context)
        seen = request.after_revision
        while True:
            yield registry_pb2.WatchComponentsResponse(
                changes=[each for each in self.changes if each.revision > seen],
                through_revision=self.revision,
            )
            seen = self.revision
            async with self.changed:
                while self.revision == seen:
                    await self.changed.wait()


class Host:
    """A running host, and what tests do with it."""

    def __init__(self, registry: Registry, channel: Any, folder: Path, registry_address: str = "") -> None:
        self.registry = registry
        self.registry_address = registry_address
        self.channel = channel
        self.tools = Tools(channel, "default")
        self.stub = service_pb2_grpc.McpHostServiceStub(channel.channel)
        self.servers = Servers(channel, "default")
        self.folder = folder

    def stdio(self, name: str, *argv: str, **spec: Any) -> int:
        """Store a stdio server; its first argument is a file of tests/servers."""
        env = {"TEST_FOLDER": str(self.folder), **spec.pop("env", {})}
        script = [str(SERVERS / argv[0]), *argv[1:]] if argv[0].endswith(".py") else [*argv[1:]]
        command = spec.pop("command", sys.executable if argv[0].endswith(".py") else argv[0])
        transport = mcp_server_pb2.StdioTransport(
            command=command, args=script, env=env, **spec.pop("stdio", {})
        )
        labels = spec.pop("labels", None)
        return self.registry.put(name, mcp_server_pb2.McpServerSpec(stdio=transport, **spec), labels)

    def http(self, name: str, url: str, headers: dict[str, str] | None = None, **spec: Any) -> int:
        """Store a server elsewhere."""
        transport = mcp_server_pb2.StreamableHttpTransport(url=url, headers=headers or {})
        return self.registry.put(name, mcp_server_pb2.McpServerSpec(streamable_http=transport, **spec))

    async def list_tools(self, *servers: str) -> tuple[list[tool_pb2.Tool], list[tool_pb2.ServerFailure]]:
        """List servers' tools."""
        return await self.tools.list([tool_pb2.ServerRef(name=name) for name in servers])

    async def call(
        self, server: str, tool: str, arguments_json: str = "{}", **more: Any
    ) -> tool_pb2.ToolResult:
        """Call a tool and return its result."""
        return (await self.updates(server, tool, arguments_json, **more))[-1].result

    async def updates(
        self, server: str, tool: str, arguments_json: str = "{}", **more: Any
    ) -> list[service_pb2.CallToolResponse]:
        """Call a tool and return all that it says."""
        return [update async for update in self.tools.call(server, tool, arguments_json, **more)]

    def lines(self, name: str) -> list[str]:
        """What servers have noted in a file."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def pids(self, name: str = "starts") -> list[int]:
        """The processes that servers have noted."""
        return [int(line) for line in self.lines(name)]


@contextlib.asynccontextmanager
async def open_host(registry: Registry, folder: Path, **settings: Any) -> AsyncIterator[Host]:
    """Serve a registry and a host until the block is left."""
    server = grpc.aio.server()
    registry_grpc.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        chosen = McpHostSettings(
            address="127.0.0.1:0",
            metrics_address="",
            registry_address=f"127.0.0.1:{port}",
            stop_grace_s=1.0,
            **settings,
        )
        async with (
            open_server(chosen, open_app) as served,
            open_channel("MCP host", served.address, Access()) as channel,
        ):
            yield Host(registry, channel, folder, f"127.0.0.1:{port}")
    finally:
        await server.stop(0)
