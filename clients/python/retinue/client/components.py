"""The registry's components as a caller sees them."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeAlias

from retinue.client.channel import ServiceChannel
from retinue.registry.v1 import component_pb2, service_pb2, service_pb2_grpc

Kind: TypeAlias = component_pb2.ComponentKind.ValueType
SourceType: TypeAlias = service_pb2.SourceType.ValueType


class Components:
    """Calls of the RegistryService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.RegistryServiceStub(channel.channel)
        self._namespace = namespace

    async def get(self, kind: Kind, name: str, *, version: int = 0) -> component_pb2.Component:
        """Return a component, at its current version where none is named."""
        ref = component_pb2.ComponentRef(kind=kind, name=name, version=version)
        request = service_pb2.GetComponentRequest(namespace=self._namespace, component=ref)
        return (await self._channel.unary(self._stub.GetComponent, request)).component

    async def list(
        self,
        kind: Kind = component_pb2.COMPONENT_KIND_UNSPECIFIED,
        *,
        labels: Mapping[str, str] | None = None,
        name_pattern: str = "",
        source: SourceType = service_pb2.SOURCE_TYPE_UNSPECIFIED,
        page_size: int = 100,
    ) -> AsyncIterator[component_pb2.Component]:
        """Yield components in the order of kind and name, fetching pages as they are needed.

        They have all of `labels`, names that fit the pattern (`*`, `?`, `[abc]`), and come from `source`.
        """
        token = ""
        while True:
            request = service_pb2.ListComponentsRequest(
                namespace=self._namespace,
                kind=kind,
                labels=labels or {},
                name_pattern=name_pattern,
                source=source,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListComponents, request)
            for component in response.components:
                yield component
            token = response.next_page_token
            if not token:
                return

    async def resolve(self, kind: Kind, name: str, *, llm: str = "") -> service_pb2.ResolveComponentResponse:
        """Return a component with all that it needs; `llm` replaces an agent's own."""
        ref = component_pb2.ComponentRef(kind=kind, name=name)
        request = service_pb2.ResolveComponentRequest(namespace=self._namespace, component=ref, llm=llm)
        return await self._channel.unary(self._stub.ResolveComponent, request)

    async def apply(
        self,
        components: Sequence[component_pb2.Component],
        *,
        request_id: str | None = None,
        dry_run: bool = False,
        prune: bool = False,
        prune_labels: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> service_pb2.ApplyComponentsResponse:
        """Store components, all or none. The same `request_id` gets the first answer again.

        `dry_run` stores nothing and returns what would be done. `prune` also deletes what came by API and is
        not among the components, with `prune_labels` only what has all of these; what others need only with
        `force`.
        """
        request = service_pb2.ApplyComponentsRequest(
            namespace=self._namespace,
            request_id=request_id or uuid.uuid4().hex,
            components=components,
            dry_run=dry_run,
            prune=prune,
            prune_labels=prune_labels,
            force=force,
        )
        return await self._channel.unary(self._stub.ApplyComponents, request)

    async def delete(
        self, kind: Kind, name: str, *, etag: str = "", request_id: str | None = None, force: bool = False
    ) -> service_pb2.DeleteComponentResponse:
        """Delete a component that came by API; what others need only with `force`."""
        request = service_pb2.DeleteComponentRequest(
            namespace=self._namespace,
            component=component_pb2.ComponentRef(kind=kind, name=name),
            etag=etag,
            request_id=request_id or uuid.uuid4().hex,
            force=force,
        )
        return await self._channel.unary(self._stub.DeleteComponent, request)

    async def versions(
        self, kind: Kind, name: str, *, page_size: int = 100
    ) -> AsyncIterator[service_pb2.ComponentVersion]:
        """Yield the versions of a component, the newest first, also of one that was deleted."""
        token = ""
        while True:
            request = service_pb2.ListComponentVersionsRequest(
                namespace=self._namespace,
                component=component_pb2.ComponentRef(kind=kind, name=name),
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListComponentVersions, request)
            for version in response.versions:
                yield version
            token = response.next_page_token
            if not token:
                return

    async def diff(
        self, kind: Kind, name: str, from_version: int, to_version: int = 0
    ) -> Sequence[service_pb2.FieldChange]:
        """Return how a version differs from another, or from the current one."""
        request = service_pb2.DiffComponentVersionsRequest(
            namespace=self._namespace,
            component=component_pb2.ComponentRef(kind=kind, name=name, version=from_version),
            to_version=to_version,
        )
        return (await self._channel.unary(self._stub.DiffComponentVersions, request)).changes

    async def rollback(
        self,
        kind: Kind,
        name: str,
        version: int,
        *,
        etag: str = "",
        request_id: str | None = None,
        take_over: bool = False,
    ) -> service_pb2.RollbackComponentResponse:
        """Store what an earlier version held as the newest one.

        One that a file owns only with `take_over`: the API's is in effect then.
        """
        request = service_pb2.RollbackComponentRequest(
            namespace=self._namespace,
            component=component_pb2.ComponentRef(kind=kind, name=name, version=version),
            etag=etag,
            request_id=request_id or uuid.uuid4().hex,
            take_over=take_over,
        )
        return await self._channel.unary(self._stub.RollbackComponent, request)

    async def watch(self, *, after_revision: int = 0) -> AsyncIterator[service_pb2.WatchComponentsResponse]:
        """Yield changes after a revision as they are stored.

        It fails when the connection does: watch again from the last `through_revision`.
        """
        request = service_pb2.WatchComponentsRequest(namespace=self._namespace, after_revision=after_revision)
        async for response in self._channel.stream(self._stub.WatchComponents, request):
            yield response

    async def problems(self) -> AsyncIterator[service_pb2.Problem]:
        """Yield what is wrong with the files now, in the order of path and line."""
        token = ""
        while True:
            request = service_pb2.ListProblemsRequest(namespace=self._namespace, page_token=token)
            response = await self._channel.unary(self._stub.ListProblems, request)
            for problem in response.problems:
                yield problem
            token = response.next_page_token
            if not token:
                return

    async def shadowed(self) -> AsyncIterator[service_pb2.ShadowedComponent]:
        """Yield what files hold that is not in effect, in the order of kind, name and layer."""
        token = ""
        while True:
            request = service_pb2.ListShadowedComponentsRequest(namespace=self._namespace, page_token=token)
            response = await self._channel.unary(self._stub.ListShadowedComponents, request)
            for shadowed in response.components:
                yield shadowed
            token = response.next_page_token
            if not token:
                return

    async def revision(self) -> int:
        """Return the registry's revision now, to watch from."""
        request = service_pb2.ListComponentsRequest(namespace=self._namespace, page_size=1)
        return (await self._channel.unary(self._stub.ListComponents, request)).revision
