"""RunService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.errors import InvalidArgumentError, RunNotFoundError, Violation
from retinue_engine.acceptance import Acceptance
from retinue_engine.convert import run_to_proto
from retinue_engine.store import RunFilter, RunRow, Store
from retinue_engine.supervisor import Supervisor
from retinue_engine.watching import watch
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit

SERVICE = "retinue.engine.v1.RunService"
MAX_REASON = 1024

Context = grpc.aio.ServicerContext[Any, Any]


class RunServicer(service_pb2_grpc.RunServiceServicer):
    """Takes calls, asks the domain, gives answers. Streams hand on the bytes that are stored."""

    def __init__(
        self, store: Store, acceptance: Acceptance, supervisor: Supervisor, heartbeat_s: float
    ) -> None:
        self._store = store
        self._acceptance = acceptance
        self._supervisor = supervisor
        self._heartbeat_s = heartbeat_s

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server. The answers of its two streams are bytes already."""
        streams: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "StreamRun": grpc.unary_stream_rpc_method_handler(
                self.StreamRun, service_pb2.StreamRunRequest.FromString, _as_it_is
            ),
            "WatchRun": grpc.unary_stream_rpc_method_handler(
                self.WatchRun, service_pb2.WatchRunRequest.FromString, _as_it_is
            ),
        }
        service_pb2_grpc.add_RunServiceServicer_to_server(self, server)
        server.add_registered_method_handlers(SERVICE, streams)

    async def StartRun(
        self, request: service_pb2.StartRunRequest, _context: Context
    ) -> service_pb2.StartRunResponse:
        row = await self._acceptance.accept(request.run)
        return service_pb2.StartRunResponse(run=run_to_proto(row))

    async def StreamRun(self, request: service_pb2.StreamRunRequest, _context: Context) -> AsyncIterator[Any]:
        row = await self._acceptance.accept(request.run)
        async for response in self._watch(row, 0):
            yield response

    async def WatchRun(self, request: service_pb2.WatchRunRequest, _context: Context) -> AsyncIterator[Any]:
        if request.after_sequence < 0:
            raise InvalidArgumentError(
                "after_sequence is below 0: use 0 to begin with the first event",
                violations=[Violation("after_sequence", "must be 0 or more")],
            )
        row = await self._find(request.namespace, request.run_id)
        async for response in self._watch(row, request.after_sequence):
            yield response

    def _watch(self, row: RunRow, after: int) -> AsyncIterator[bytes]:
        return watch(self._store, self._supervisor, row.namespace, row.run_id, after, self._heartbeat_s)

    async def GetRun(
        self, request: service_pb2.GetRunRequest, _context: Context
    ) -> service_pb2.GetRunResponse:
        row = await self._find(request.namespace, request.run_id)
        return service_pb2.GetRunResponse(run=run_to_proto(row))

    async def ListRuns(
        self, request: service_pb2.ListRunsRequest, _context: Context
    ) -> service_pb2.ListRunsResponse:
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        which = RunFilter(
            request.namespace or "default", request.session_id, tuple(request.states), request.target_name
        )
        before = (int(place[0]), str(place[1])) if place else None
        rows = await self._store.list_runs(which, before, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return service_pb2.ListRunsResponse(
            runs=[run_to_proto(row) for row in rows],
            next_page_token=encode_page_token([rows[-1].create_us, rows[-1].run_id]) if more else "",
        )

    async def CancelRun(
        self, request: service_pb2.CancelRunRequest, _context: Context
    ) -> service_pb2.CancelRunResponse:
        if len(request.reason) > MAX_REASON:
            raise InvalidArgumentError(
                f"the reason is longer than {MAX_REASON} characters",
                violations=[Violation("reason", f"at most {MAX_REASON} characters")],
            )
        row = await self._supervisor.cancel(request.namespace or "default", request.run_id, request.reason)
        if row is None:
            raise _not_found(request.run_id)
        return service_pb2.CancelRunResponse(run=run_to_proto(row))

    async def _find(self, namespace: str, run_id: str) -> RunRow:
        row = await self._store.get_run(namespace or "default", run_id)
        if row is None:
            raise _not_found(run_id)
        return row


def _as_it_is(data: bytes) -> bytes:
    return data


def _not_found(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id!r}: `retinue runs` lists them", run_id=run_id)
