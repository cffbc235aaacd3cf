"""RunService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.engine.v1.run_pb2 import RunState
from retinue.errors import (
    BlobNotFoundError,
    InvalidArgumentError,
    RetinueError,
    RunNotFoundError,
    RunStateInvalidError,
    Violation,
)
from retinue_engine.agent.tree import Definition
from retinue_engine.convert import attachment_of, now_us, run_to_proto, settings_to_proto
from retinue_engine.reports.report import report_of
from retinue_engine.runs.acceptance import Acceptance
from retinue_engine.runs.keeping import Keepers
from retinue_engine.runs.retrying import retry_request
from retinue_engine.runs.violations import check_options
from retinue_engine.stores.rows import FINAL_STATES, Control, RunFilter, RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.filter import EventFilter, check_types, filtered
from retinue_engine.story.history import callee_of, definition_of
from retinue_engine.story.remote_feeds import RemoteFeeds
from retinue_engine.story.watching import watch
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit

log = structlog.get_logger()

SERVICE = "retinue.engine.v1.RunService"
MAX_REASON = 1024

Context = grpc.aio.ServicerContext[Any, Any]


class RunServicer(service_pb2_grpc.RunServiceServicer):
    """Takes calls, asks the domain, gives answers. Streams hand on the bytes that are stored."""

    def __init__(
        self,
        store: Store,
        acceptance: Acceptance,
        keepers: Keepers,
        remote: RemoteFeeds,
        heartbeat_s: float,
    ) -> None:
        self._store = store
        self._acceptance = acceptance
        self._supervisor = keepers.supervisor
        self._dispatcher = keepers.dispatcher
        self._remote = remote
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
        check_types(request.event_types)
        row = await self._find(request.namespace, request.run_id)
        child, last = "", None
        if row.parent_run_id:
            child = row.run_id
            last = await self._store.last_sequence(row.root_run_id) if row.state in FINAL_STATES else None
        if last is not None and last == request.after_sequence:
            return
        which = EventFilter(frozenset(request.event_types), _below(row.path, request.path), child, last)
        stream = self._watch(row, request.after_sequence)
        async for response in stream if which.empty else filtered(stream, which):
            yield response

    def _watch(self, row: RunRow, after: int) -> AsyncIterator[bytes]:
        return watch(
            self._store,
            self._supervisor,
            self._remote,
            row.namespace,
            row.root_run_id,
            after,
            self._heartbeat_s,
        )

    async def GetRun(
        self, request: service_pb2.GetRunRequest, _context: Context
    ) -> service_pb2.GetRunResponse:
        row = await self._find(request.namespace, request.run_id)
        run = run_to_proto(row)
        try:
            run.settings.CopyFrom(settings_to_proto(await self._definition(row)))
        except (RetinueError, DecodeError) as error:
            # The run itself can be seen all the same; why it cannot run stands in its result.
            log.warning("cannot show a run's settings", run_id=row.run_id, error=str(error))
        return service_pb2.GetRunResponse(run=run)

    async def ListRuns(
        self, request: service_pb2.ListRunsRequest, _context: Context
    ) -> service_pb2.ListRunsResponse:
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        which = RunFilter(
            request.namespace or "default",
            request.session_id,
            tuple(request.states),
            request.target_name,
            request.root_run_id,
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
        _check_reason(request.reason)
        row = await self._control(request.namespace, request.run_id, Control(cancel_reason=request.reason))
        return service_pb2.CancelRunResponse(run=run_to_proto(row))

    async def PauseRun(
        self, request: service_pb2.PauseRunRequest, _context: Context
    ) -> service_pb2.PauseRunResponse:
        _check_reason(request.reason)
        row = await self._control(request.namespace, request.run_id, Control(pause_reason=request.reason))
        _check_not_ended(row)
        return service_pb2.PauseRunResponse(run=run_to_proto(row))

    async def ResumeRun(
        self, request: service_pb2.ResumeRunRequest, _context: Context
    ) -> service_pb2.ResumeRunResponse:
        row = await self._control(request.namespace, request.run_id, Control(resume=True))
        _check_not_ended(row)
        return service_pb2.ResumeRunResponse(run=run_to_proto(row))

    async def RetryRun(
        self, request: service_pb2.RetryRunRequest, _context: Context
    ) -> service_pb2.RetryRunResponse:
        check_options(request.options)
        row = await self._find(request.namespace, request.run_id)
        _check_root(row)
        again, origin = await retry_request(self._store, row, request.request_id, request.options)
        stored = await self._acceptance.accept(again, origin)
        return service_pb2.RetryRunResponse(run=run_to_proto(stored))

    async def GetRunReport(
        self, request: service_pb2.GetRunReportRequest, _context: Context
    ) -> service_pb2.GetRunReportResponse:
        row = await self._find(request.namespace, request.run_id)
        return service_pb2.GetRunReportResponse(report=await report_of(self._store, row, now_us()))

    async def GetBlob(
        self, request: service_pb2.GetBlobRequest, _context: Context
    ) -> service_pb2.GetBlobResponse:
        row = await self._find(request.namespace, request.run_id)
        blob = await self._store.get_blob(row.root_run_id, request.blob_id)
        if blob is None:
            raise BlobNotFoundError(
                f"run {request.run_id} has no attachment {request.blob_id!r}", blob_id=request.blob_id
            )
        return service_pb2.GetBlobResponse(attachment=attachment_of(blob), data=blob.data)

    async def _control(self, namespace: str, run_id: str, control: Control) -> RunRow:
        _check_root(await self._find(namespace, run_id))
        row = await self._dispatcher.control(namespace or "default", run_id, control)
        if row is None:
            raise _not_found(run_id)
        return row

    async def _definition(self, row: RunRow) -> Definition:
        if not row.parent_run_id:
            return definition_of(row)
        root = await self._find(row.namespace, row.root_run_id)
        return callee_of(root, row.target_kind, row.target_name)

    async def _find(self, namespace: str, run_id: str) -> RunRow:
        row = await self._store.get_run(namespace or "default", run_id)
        if row is None:
            raise _not_found(run_id)
        return row


def _as_it_is(data: bytes) -> bytes:
    return data


def _not_found(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id!r}: `retinue runs` lists them", run_id=run_id)


def _check_reason(reason: str) -> None:
    if len(reason) > MAX_REASON:
        raise InvalidArgumentError(
            f"the reason is longer than {MAX_REASON} characters",
            violations=[Violation("reason", f"at most {MAX_REASON} characters")],
        )


def _check_root(row: RunRow) -> None:
    if row.parent_run_id:
        raise RunStateInvalidError(
            f"run {row.run_id} is a part of run {row.root_run_id}: ask that of the whole one",
            run_id=row.run_id,
            root_run_id=row.root_run_id,
        )


def _check_not_ended(row: RunRow) -> None:
    if row.state in FINAL_STATES:
        state = RunState.Name(RunState.ValueType(row.state)).removeprefix("RUN_STATE_")
        raise RunStateInvalidError(
            f"run {row.run_id} has ended: it is {state}", run_id=row.run_id, state=state
        )


def _below(path: str, wanted: str) -> str:
    """The path that a watcher of a run asks for, which may say it from the run's own place on."""
    if not path or wanted == path or wanted.startswith(f"{path}/"):
        return wanted
    return f"{path}/{wanted}" if wanted else path
