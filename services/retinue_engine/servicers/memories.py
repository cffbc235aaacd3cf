"""MemoryService on the wire."""

import time
from typing import Any

import grpc

from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.errors import InvalidArgumentError, MemoryNotFoundError, RequestIdReusedError, Violation
from retinue_engine.convert_memory import memory_to_proto
from retinue_engine.ids import new_run_id
from retinue_engine.memory import MemoryRow, check_labels, check_text, memory_id, words_of
from retinue_engine.stores.store import Store
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit

SERVICE = "retinue.engine.v1.MemoryService"
MAX_REQUEST_ID = 128
MAX_FOUND = 100
FOUND = 10

Context = grpc.aio.ServicerContext[Any, Any]


class MemoryServicer(service_pb2_grpc.MemoryServiceServicer):
    """Keeps texts, and finds them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        service_pb2_grpc.add_MemoryServiceServicer_to_server(self, server)

    async def WriteMemory(
        self, request: service_pb2.WriteMemoryRequest, _context: Context
    ) -> service_pb2.WriteMemoryResponse:
        if len(request.request_id) > MAX_REQUEST_ID:
            raise _invalid("request_id", f"must have at most {MAX_REQUEST_ID} characters")
        labels = dict(request.labels)
        check_text(request.text)
        check_labels(labels)
        namespace, now_us = request.namespace or "default", _now_us()
        span_us = request.expire_after.ToMicroseconds()
        if request.HasField("expire_after") and span_us <= 0:
            raise _invalid("expire_after", "must be more than 0")
        asked = request.request_id or new_run_id()
        row = MemoryRow(
            namespace=namespace,
            memory_id=memory_id(namespace, "request", asked),
            text=request.text,
            labels=labels,
            create_us=now_us,
            expire_us=now_us + span_us if span_us else None,
        )
        stored = await self._store.write_memory(row)
        if (stored.text, dict(stored.labels)) != (row.text, labels):
            raise RequestIdReusedError(
                f"the request_id {request.request_id!r} was used for another text: choose another",
                request_id=request.request_id,
            )
        return service_pb2.WriteMemoryResponse(memory=memory_to_proto(stored))

    async def GetMemory(
        self, request: service_pb2.GetMemoryRequest, _context: Context
    ) -> service_pb2.GetMemoryResponse:
        row = await self._store.get_memory(request.namespace or "default", request.memory_id, _now_us())
        if row is None:
            raise _not_found(request.memory_id)
        return service_pb2.GetMemoryResponse(memory=memory_to_proto(row))

    async def ListMemories(
        self, request: service_pb2.ListMemoriesRequest, _context: Context
    ) -> service_pb2.ListMemoriesResponse:
        labels = dict(request.labels)
        check_labels(labels)
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        before = (int(place[0]), str(place[1])) if place else None
        rows = await self._store.list_memories(
            request.namespace or "default", labels, before, limit + 1, _now_us()
        )
        more, rows = len(rows) > limit, rows[:limit]
        return service_pb2.ListMemoriesResponse(
            memories=map(memory_to_proto, rows),
            next_page_token=encode_page_token([rows[-1].create_us, rows[-1].memory_id]) if more else "",
        )

    async def SearchMemories(
        self, request: service_pb2.SearchMemoriesRequest, _context: Context
    ) -> service_pb2.SearchMemoriesResponse:
        labels = dict(request.labels)
        check_labels(labels)
        if not 0 <= request.limit <= MAX_FOUND:
            raise _invalid("limit", f"must be 0 to {MAX_FOUND}")
        words = words_of(request.query)
        if not words:
            raise _invalid("query", "has no word: ListMemories returns the newest texts")
        rows = await self._store.search_memories(
            request.namespace or "default", words, labels, request.limit or FOUND, _now_us()
        )
        return service_pb2.SearchMemoriesResponse(memories=map(memory_to_proto, rows))

    async def DeleteMemory(
        self, request: service_pb2.DeleteMemoryRequest, _context: Context
    ) -> service_pb2.DeleteMemoryResponse:
        if not await self._store.delete_memory(request.namespace or "default", request.memory_id):
            raise _not_found(request.memory_id)
        return service_pb2.DeleteMemoryResponse()


def _not_found(wanted: str) -> MemoryNotFoundError:
    return MemoryNotFoundError(
        f"no text {wanted!r} is kept: `retinue memory list` lists them", memory_id=wanted
    )


def _invalid(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {what}", violations=[Violation(field, what)])


def _now_us() -> int:
    return time.time_ns() // 1000
