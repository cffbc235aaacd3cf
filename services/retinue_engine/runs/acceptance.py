"""Accepting a run: checked, resolved, and stored before the caller has its answer."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass

from retinue.engine.v1.run_pb2 import RunOrigin
from retinue.engine.v1.service_pb2 import (
    SESSION_BUSY_POLICY_INTERRUPT,
    SESSION_BUSY_POLICY_REJECT,
    RunRequest,
)
from retinue.errors import (
    ComponentNotAllowedError,
    RequestIdReusedError,
    RetinueError,
    TooManyRunsError,
)
from retinue.registry.v1.component_pb2 import COMPONENT_KIND_AGENT
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.agent.attachments import new_blob
from retinue_engine.agent.output import OutputSchema
from retinue_engine.closures import Closures
from retinue_engine.convert import attachment_of, now_us, run_started
from retinue_engine.definition import AgentDefinition
from retinue_engine.ids import new_run_id, new_session_id, new_writer
from retinue_engine.runs.dispatcher import Dispatcher
from retinue_engine.runs.supervisor import Supervisor
from retinue_engine.runs.violations import check_request, check_workflow_options
from retinue_engine.stores.rows import NOT_FINAL_STATES, Control, RunFilter, RunRow, SessionTakenError
from retinue_engine.stores.store import Store
from retinue_engine.story.history import callee_from, definition_from
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.ends import read_input
from retinue_kit.allowed import Allowed

_PAGE = 100
INTERRUPTED = "interrupted by a newer run of the session"


@dataclass(frozen=True, slots=True)
class _Accepted:
    """A request that is in order, with what it resolves to."""

    namespace: str
    request: RunRequest
    digest: bytes
    resolved: ResolveComponentResponse
    definition: bytes
    origin: RunOrigin | None


class Acceptance:
    """Takes requests to run something and makes them runs."""

    def __init__(
        self,
        store: Store,
        closures: Closures,
        supervisor: Supervisor,
        dispatcher: Dispatcher,
        allowed: Allowed,
    ) -> None:
        self._store = store
        self._closures = closures
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._allowed = allowed

    async def accept(self, request: RunRequest, origin: RunOrigin | None = None) -> RunRow:
        """Store a run and begin it; return it as stored. The same request_id finds the same run.

        With `origin` it goes on from where another run stood.
        """
        check_request(request, goes_on=origin is not None)
        request.namespace = namespace = request.namespace or "default"
        asked = request.SerializeToString(deterministic=True)
        digest = hashlib.sha256(asked + (origin.SerializeToString() if origin else b"")).digest()
        try:
            resolved = await self._resolve(namespace, request)
            definition = resolved.SerializeToString()
            self._check_definition(resolved, definition, request)
            if self._dispatcher.full or request.session_id:
                await self._check_queue(namespace, request.session_id)
        except RetinueError:
            # The store finds a known request when it is to store it; one that comes again is answered too
            # where it could not begin now.
            known = (
                await self._store.find_request(namespace, request.request_id) if request.request_id else None
            )
            if known is None:
                raise
            return _same(known, digest)
        if request.session_id and request.session_busy == SESSION_BUSY_POLICY_INTERRUPT:
            await self._interrupt(namespace, request)
        accepted = _Accepted(namespace, request, digest, resolved, definition, origin)
        while True:
            try:
                return await self._create(accepted)
            except SessionTakenError:
                continue  # the generated id exists: draw again

    async def _check_queue(self, namespace: str, session_id: str) -> None:
        """Raise TooManyRunsError where a run would be queued and as many are as may be."""
        try:
            await self._dispatcher.check_queue()
        except TooManyRunsError:
            session = await self._store.get_session(namespace, session_id)
            if self._dispatcher.full or (session is not None and session.active_run_id):
                raise

    async def _resolve(self, namespace: str, request: RunRequest) -> ResolveComponentResponse:
        target = request.target
        return await self._closures.resolve(namespace, target.kind, target.name, request.options.llm)

    def _check_definition(
        self, resolved: ResolveComponentResponse, definition: bytes, request: RunRequest
    ) -> None:
        """Refuse now what cannot work: a missing key, a setting that fits no transport, a gap in a prompt."""
        options = request.options.SerializeToString()
        target = definition_from(definition, options)
        if isinstance(target, WorkflowDefinition):
            check_workflow_options(request.options)
            read_input(target, request.message)
        agents = [target] if isinstance(target, AgentDefinition) else []
        for each in resolved.dependencies:
            if each.kind == COMPONENT_KIND_AGENT:
                callee = callee_from(definition, options, each.kind, each.name)
                # What a workflow needs for its steps; what an agent may ask is seen to when it does.
                if isinstance(target, WorkflowDefinition) and isinstance(callee, AgentDefinition):
                    agents.append(callee)
        for agent in agents:
            for llm in agent.llms:
                # What is not allowed fails the run, by the lists of the engine that works on it.
                with suppress(ComponentNotAllowedError):
                    llm.endpoint(self._allowed)
        if request.options.output_schema_json:
            OutputSchema(request.options.output_schema_json, "run.options.output_schema_json")

    async def _interrupt(self, namespace: str, request: RunRequest) -> None:
        """Cancel the runs of the session that have not ended, unless the request is known already."""
        if request.request_id and await self._store.find_request(namespace, request.request_id):
            return
        which = RunFilter(namespace, request.session_id, states=NOT_FINAL_STATES)
        # The newest first: what is queued does not begin when the one before it ends.
        while rows := await self._store.list_runs(which, None, _PAGE):
            for row in rows:
                await self._dispatcher.control(namespace, row.run_id, Control(cancel_reason=INTERRUPTED))
            if len(rows) < _PAGE:
                return

    async def _create(self, accepted: _Accepted) -> RunRow:
        request = accepted.request
        stored_request = RunRequest()
        stored_request.CopyFrom(request)
        # The bytes have a place of their own; what was asked is kept in the first event and in the request.
        del stored_request.files[:]
        create_us = now_us()
        timeout_s = definition_from(accepted.definition, request.options.SerializeToString()).timeout_s
        # A queued run has no task that could see its time run out.
        limits_us = [request.queue_timeout.ToMicroseconds(), int((timeout_s or 0) * 1_000_000)]
        queue_us = min((each for each in limits_us if each), default=None)
        origin = accepted.origin
        is_agent = accepted.resolved.component.kind == COMPONENT_KIND_AGENT
        row = RunRow(
            run_id=new_run_id(),
            namespace=accepted.namespace,
            root_run_id="",
            request_id=request.request_id,
            request_digest=accepted.digest,
            target_kind=accepted.resolved.component.kind,
            target_name=accepted.resolved.component.name,
            target_version=accepted.resolved.component.version,
            session_id=request.session_id or new_session_id("agent" if is_agent else "workflow"),
            create_us=create_us,
            request=stored_request.SerializeToString(),
            definition=accepted.definition,
            writer=new_writer(),
            lease_us=self._supervisor.lease_us(),
            origin_run_id=origin.run_id if origin else "",
            origin_sequence=origin.sequence if origin else 0,
            priority=request.priority,
            expire_us=create_us + queue_us if queue_us is not None else None,
        )
        row.root_run_id = row.run_id
        blobs = [new_blob(row.run_id, file.mime_type, file.name, file.data) for file in request.files]
        stored = await self._dispatcher.accept(
            row,
            run_started(row, request, accepted.resolved, map(attachment_of, blobs)),
            new_session=not request.session_id,
            blobs=blobs,
            reject_busy=request.session_busy == SESSION_BUSY_POLICY_REJECT,
        )
        return stored if stored.run_id == row.run_id else _same(stored, accepted.digest)


def _same(known: RunRow, digest: bytes) -> RunRow:
    if known.request_digest != digest:
        raise RequestIdReusedError(
            f"request_id {known.request_id!r} was used for another request, which is {known.run_id}: "
            "choose a new one for each run",
            request_id=known.request_id,
            run_id=known.run_id,
        )
    return known
