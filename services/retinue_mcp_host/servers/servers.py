"""MCP servers as the host knows them: what the registry says of them, with the state of their connections."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from retinue.client import Components, ServiceChannel
from retinue.errors import ComponentInvalidError, InvalidArgumentError, RetinueError, Violation
from retinue.registry.v1.component_pb2 import Component
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections.pool import Connections
from retinue_mcp_host.convert import MCP_SERVER, spec_from_component
from retinue_mcp_host.logins.login import LoginView, key_of, place_of
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import NO_SCOPE, ServerInfo
from retinue_mcp_host.servers.catalogue import Catalogue
from retinue_mcp_host.servers.log import ServerLogs
from retinue_mcp_host.servers.routes import Routes
from retinue_mcp_host.servers.supervision import Health, Supervision

CAPABILITIES = ("tools", "resources", "resource_subscriptions", "prompts", "completions", "logging")
STDERR_LINES = 20
"""Of the last ones, with a server's state."""
MAX_CONNECTIONS = 100
"""Of one server, the newest; where each run has its own there may be more."""
COALESCE_S = 0.1
"""From the first of several changes to the message that tells them."""


class ConnectionView(NamedTuple):
    """One connection at one moment."""

    health: Health
    stderr: Sequence[str]
    process_id: int
    calls: int
    queued_calls: int


class ServerView(NamedTuple):
    """A server at one moment."""

    component: Component
    connections: Sequence[ConnectionView]
    """The newest first."""
    info: ServerInfo | None
    """What it said about itself last."""
    login: LoginView | None
    """None where its config has no login."""


class Page(NamedTuple):
    """Servers in the order of names."""

    servers: Sequence[ServerView]
    failures: Mapping[str, RetinueError]
    """Of those that could not be connected to see what they can do."""
    next_name: str
    """The last that was looked at; empty where none is left."""


class ServerChanges(NamedTuple):
    """What is other than before; nothing of it is a heartbeat."""

    servers: Sequence[ServerView] = ()
    gone: Sequence[str] = ()


class Servers:
    """Looks at servers, and restarts them."""

    def __init__(
        self,
        registry: ServiceChannel,
        catalogue: Catalogue,
        routes: Routes,
        connections: Connections,
        supervision: Supervision,
        logs: ServerLogs,
        logins: Logins,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._routes = routes
        self._connections = connections
        self._supervision = supervision
        self._logs = logs
        self._logins = logins

    async def get(self, namespace: str, name: str) -> ServerView:
        """A server. Raises ComponentNotFoundError, ServiceUnavailableError."""
        return self._view(await Components(self._registry, namespace).get(MCP_SERVER, name))

    async def page(
        self,
        namespace: str,
        *,
        labels: Mapping[str, str],
        capabilities: Sequence[str],
        after: str,
        limit: int,
    ) -> Page:
        """Servers after a name. With capabilities, those that are not known yet are connected to see them.

        Raises InvalidArgumentError, ServiceUnavailableError.
        """
        _check_capabilities(capabilities)
        components = Components(self._registry, namespace)
        found = [
            each
            async for each in components.list(MCP_SERVER, page_size=1000)
            if each.name > after and all(each.labels.get(key) == value for key, value in labels.items())
        ]
        found.sort(key=lambda each: each.name)
        page, next_name = found[:limit], found[limit - 1].name if len(found) > limit else ""
        if not capabilities:
            return Page([self._view(each) for each in page], {}, next_name)
        failures = await self._learn(namespace, page)
        views = [self._view(each) for each in page]
        able = [view for view in views if _has(view.info, capabilities)]
        return Page(able, failures, next_name)

    async def _learn(self, namespace: str, page: Sequence[Component]) -> dict[str, RetinueError]:
        async def connect(component: Component) -> RetinueError | None:
            if self._supervision.info(namespace, component.name) is None:
                try:
                    await self._routes.connection(namespace, component.name, component.version, NO_SCOPE)
                except RetinueError as error:
                    return error
            return None

        async with asyncio.TaskGroup() as tasks:
            connecting = {each.name: tasks.create_task(connect(each)) for each in page}
        outcomes = {name: task.result() for name, task in connecting.items()}
        return {name: error for name, error in outcomes.items() if error is not None}

    async def restart(self, namespace: str, name: str) -> ServerView:
        """Close a server's connections and connect it again. Raises the error with which that fails."""
        component = await Components(self._registry, namespace).get(MCP_SERVER, name)
        await self._connections.restart(await self._routes.spec(namespace, name, component.version))
        return self._view(component)

    async def watch(
        self, namespace: str, names: Sequence[str], states: Changes, heartbeat_s: float
    ) -> AsyncIterator[ServerChanges]:
        """Servers as they are, then those that change; nothing where nothing does for `heartbeat_s`.

        Raises ServiceUnavailableError where the registry has not answered yet; later it may be away.
        """
        changed: set[str] = set()
        wake = asyncio.Event()

        def note(of: str, server: str) -> None:
            if of == namespace and (not names or server in names):
                changed.add(server)
                wake.set()

        with self._catalogue.follow(namespace) as followed:
            states.listen(note)
            try:
                known = await followed.known()
                changed.update(names or known)
                told: set[str] = set(names)
                while True:
                    looked = sorted(changed)
                    changed.clear()
                    here = [name for name in looked if name in followed.servers]
                    gone = [name for name in looked if name not in followed.servers and name in told]
                    told.difference_update(gone)
                    told.update(here)
                    yield ServerChanges([self._view(followed.servers[name]) for name in here], gone)
                    wake.clear()
                    try:
                        async with asyncio.timeout(heartbeat_s):
                            await wake.wait()
                        await asyncio.sleep(COALESCE_S)
                    except TimeoutError:
                        continue
            finally:
                states.unlisten(note)

    def _view(self, component: Component) -> ServerView:
        namespace, name = component.namespace, component.name
        newest = self._supervision.of(namespace, name)[:MAX_CONNECTIONS]
        connections = [self._connection(health) for health in newest]
        info = self._supervision.info(namespace, name)
        return ServerView(component, connections, info, self._login(component))

    def _login(self, component: Component) -> LoginView | None:
        try:
            spec = spec_from_component(component)
        except ComponentInvalidError:
            return None
        place = place_of(spec)
        return self._logins.view(key_of(spec, place)) if place is not None else None

    def _connection(self, health: Health) -> ConnectionView:
        key = health.key
        stderr = self._logs.ring(key.namespace, key.server).stderr(key.scope, STDERR_LINES)
        live = self._connections.at(key)
        if live is None:
            return ConnectionView(health, stderr, 0, 0, 0)
        return ConnectionView(health, stderr, live.process_id, live.slots.running, live.slots.waiting)


def _check_capabilities(capabilities: Sequence[str]) -> None:
    unknown = sorted(set(capabilities) - set(CAPABILITIES))
    if unknown:
        raise InvalidArgumentError(
            f"there is no capability {unknown[0]}: use {', '.join(CAPABILITIES)}",
            violations=[Violation("capabilities", f"must be of {', '.join(CAPABILITIES)}")],
        )


def _has(info: ServerInfo | None, capabilities: Sequence[str]) -> bool:
    return info is not None and all(getattr(info, each) for each in capabilities)
