"""Texts that the engine keeps, and workflows read and write."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from retinue.client.channel import ServiceChannel
from retinue.engine.v1 import memory_pb2, service_pb2, service_pb2_grpc


class Memories:
    """Calls of the engine's MemoryService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.MemoryServiceStub(channel.channel)
        self._namespace = namespace

    async def write(
        self,
        text: str,
        *,
        labels: Mapping[str, str] | None = None,
        expire_after: timedelta | None = None,
        request_id: str = "",
    ) -> memory_pb2.Memory:
        """Keep a text; with a `request_id` once, however often it is asked."""
        request = service_pb2.WriteMemoryRequest(
            namespace=self._namespace, request_id=request_id, text=text, labels=labels or {}
        )
        if expire_after is not None:
            request.expire_after.FromTimedelta(expire_after)
        return (await self._channel.unary(self._stub.WriteMemory, request)).memory

    async def get(self, memory_id: str) -> memory_pb2.Memory:
        """A text. Raises MemoryNotFoundError."""
        request = service_pb2.GetMemoryRequest(namespace=self._namespace, memory_id=memory_id)
        return (await self._channel.unary(self._stub.GetMemory, request)).memory

    async def list(
        self, *, labels: Mapping[str, str] | None = None, page_size: int = 100
    ) -> AsyncIterator[memory_pb2.Memory]:
        """Yield texts, the newest first, fetching pages as they are needed."""
        token = ""
        while True:
            request = service_pb2.ListMemoriesRequest(
                namespace=self._namespace, labels=labels or {}, page_size=page_size, page_token=token
            )
            response = await self._channel.unary(self._stub.ListMemories, request)
            for each in response.memories:
                yield each
            token = response.next_page_token
            if not token:
                return

    async def search(
        self, query: str, *, labels: Mapping[str, str] | None = None, limit: int = 0
    ) -> Sequence[memory_pb2.Memory]:
        """The texts that fit some words best, 10 where there is no `limit`."""
        request = service_pb2.SearchMemoriesRequest(
            namespace=self._namespace, query=query, labels=labels or {}, limit=limit
        )
        return (await self._channel.unary(self._stub.SearchMemories, request)).memories

    async def delete(self, memory_id: str) -> None:
        """Forget a text. Raises MemoryNotFoundError."""
        request = service_pb2.DeleteMemoryRequest(namespace=self._namespace, memory_id=memory_id)
        await self._channel.unary(self._stub.DeleteMemory, request)
