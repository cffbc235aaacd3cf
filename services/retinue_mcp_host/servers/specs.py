"""What the registry says of servers. A version does not change, so each is asked for once."""

import asyncio
from dataclasses import replace
from typing import NamedTuple

from retinue.client import Components, ServiceChannel
from retinue.errors import CallCancelledError, RetinueError, ServiceUnavailableError, error_from_facts
from retinue_kit.allowed import Allowed
from retinue_mcp_host.convert import MCP_SERVER, spec_from_component
from retinue_mcp_host.model import ServerSpec
from retinue_mcp_host.servers.rules import check_rules

MAX_CACHED = 4096
"""Specs; beyond it the cache begins anew."""


class _Key(NamedTuple):
    namespace: str
    name: str
    version: int


class _Lookup:
    """One request to the registry, for all who asked before it was sent."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.result: ServerSpec | RetinueError | None = None
        """None where who asked for all was cancelled."""


class ServerSpecs:
    """Specs of servers by namespace, name and version."""

    def __init__(self, registry: ServiceChannel, allowed: Allowed) -> None:
        self._registry = registry
        self._allowed = allowed
        self._cache: dict[_Key, ServerSpec] = {}
        self._next: dict[_Key, _Lookup] = {}
        """Not sent yet, so that it can be joined: the answer of one under way may be too old."""
        self._under_way: dict[_Key, _Lookup] = {}

    def find(self, namespace: str, name: str, version: int) -> ServerSpec | None:
        """The spec of an exact version that was asked for before; None for version 0, the current one."""
        return self._cache.get(_Key(namespace, name, version))

    async def get(self, namespace: str, name: str, version: int) -> ServerSpec:
        """The spec of a version, 0 for the current one, from the registry.

        Raises ComponentNotFoundError, ComponentInvalidError, ComponentNotAllowedError,
        ServiceUnavailableError.
        """
        key = _Key(namespace, name, version)
        while True:
            lookup = self._next.get(key)
            if lookup is None:
                lookup = self._next[key] = _Lookup()
                await self._look_up(key, lookup)
            else:
                await lookup.done.wait()
            if isinstance(lookup.result, ServerSpec):
                return lookup.result
            if lookup.result is not None:
                raise error_from_facts(lookup.result.reason, lookup.result.message, lookup.result.facts)

    async def _look_up(self, key: _Key, lookup: _Lookup) -> None:
        try:
            while (before := self._under_way.get(key)) is not None:
                await before.done.wait()
            self._under_way[key] = self._next.pop(key)
            lookup.result = await self._ask(key)
        except RetinueError as error:
            lookup.result = error
        finally:
            if self._next.get(key) is lookup:
                del self._next[key]
            if self._under_way.get(key) is lookup:
                del self._under_way[key]
            lookup.done.set()

    async def _ask(self, key: _Key) -> ServerSpec:
        components = Components(self._registry, key.namespace)
        try:
            component = await components.get(MCP_SERVER, key.name, version=key.version)
        except CallCancelledError:
            # Not by us: that would have been a CancelledError. The caller's own call is not cancelled.
            raise ServiceUnavailableError(
                "the registry broke off a request: try again",
                service=self._registry.service,
                address=self._registry.address,
            ) from None
        # What came by API and is not allowed is no server here: its tools are not listed, and not called.
        reach = check_rules(component, self._allowed)
        spec = replace(spec_from_component(component), reach=reach)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[_Key(key.namespace, key.name, spec.version)] = spec
        return spec
