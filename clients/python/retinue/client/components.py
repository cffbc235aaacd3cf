"""The registry's components as a caller sees them."""

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

from retinue.client.channel import ServiceChannel
from retinue.registry.v1 import component_pb2, service_pb2, service_pb2_grpc

Kind: TypeAlias = component_pb2.ComponentKind.ValueType


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
        self, kind: Kind = component_pb2.COMPONENT_KIND_UNSPECIFIED, *, page_size: int = 100
    ) -> AsyncIterator[component_pb2.Component]:
        """Yield components in the order of kind and name, fetching pages as they are needed."""
        token = ""
        while True:
            request = service_pb2.ListComponentsRequest(
                namespace=self._namespace, kind=kind, page_size=page_size, page_token=token
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
        self, components: Sequence[component_pb2.Component], *, request_id: str | None = None
    ) -> service_pb2.ApplyComponentsResponse:
        """Store components, all or none. The same `request_id` gets the first answer again."""
        request = service_pb2.ApplyComponentsRequest(
            namespace=self._namespace, request_id=request_id or uuid.uuid4().hex, components=components
        )
        return await self._channel.unary(self._stub.ApplyComponents, request)

    async def watch(self, *, after_revision: int = 0) -> AsyncIterator[service_pb2.WatchComponentsResponse]:
        """Yield changes after a revision as they are stored.

        It fails when the connection does: watch again from the last `through_revision`.
        """
        request = service_pb2.WatchComponentsRequest(namespace=self._namespace, after_revision=after_revision)
        async for response in self._channel.stream(self._stub.WatchComponents, request):
            yield response

    async def problems(self) -> AsyncIterator[service_pb2.Problem]:
        """Yield what is wrong with the project's files now, in the order of path and line."""
        token = ""
        while True:
            request = service_pb2.ListProblemsRequest(namespace=self._namespace, page_token=token)
            response = await self._channel.unary(self._stub.ListProblems, request)
            for problem in response.problems:
                yield problem
            token = response.next_page_token
            if not token:
                return

    async def revision(self) -> int:
        """Return the registry's revision now, to watch from."""
        request = service_pb2.ListComponentsRequest(namespace=self._namespace, page_size=1)
        return (await self._channel.unary(self._stub.ListComponents, request)).revision
