"""Between the protos of other services and what the engine's own code works with."""

import time
from collections.abc import Iterable

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2, session_pb2
from retinue.engine.v1.attachment_pb2 import Attachment
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1 import component_pb2
from retinue.registry.v1.agent_pb2 import Budget as BudgetMessage
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.definition import AgentDefinition, Budget
from retinue_engine.outcome import set_seconds
from retinue_engine.stores.rows import BlobRow, InputRow, MessageRow, RunRow, SessionRow
from retinue_engine.workflow.definition import WorkflowDefinition


def run_started(
    run: RunRow,
    request: RunRequest,
    resolved: ResolveComponentResponse,
    attachments: Iterable[Attachment] = (),
) -> event_pb2.RunEvent:
    """The first event of a run."""
    event = event_pb2.RunEvent(run_id=run.run_id, sequence=1)
    seconds, micros = divmod(run.create_us, 1_000_000)
    event.time.seconds, event.time.nanos = seconds, micros * 1000
    started = event.run_started
    started.target.kind = resolved.component.kind
    started.target.name = resolved.component.name
    started.target.version = resolved.component.version
    started.session_id = run.session_id
    started.base_session_id = run.session_id
    started.message = request.message
    for each in resolved.dependencies:
        started.dependencies.add(kind=each.kind, name=each.name, version=each.version)
    if run.origin_run_id:
        started.origin.run_id, started.origin.sequence = run.origin_run_id, run.origin_sequence
    started.attachments.extend(attachments)
    return event


def run_to_proto(row: RunRow) -> run_pb2.Run:
    """A run as callers see it."""
    request = RunRequest.FromString(row.request)
    run = run_pb2.Run(
        run_id=row.run_id,
        namespace=row.namespace,
        root_run_id=row.root_run_id,
        target=component_pb2.ComponentRef(
            kind=component_pb2.ComponentKind.ValueType(row.target_kind),
            name=row.target_name,
            version=row.target_version,
        ),
        state=run_pb2.RunState.ValueType(row.state),
        session_id=row.session_id,
        message=request.message,
        labels=request.labels,
        parent_run_id=row.parent_run_id,
        path=row.path,
        pause_requested=row.pause_reason is not None,
        priority=row.priority,
    )
    if row.origin_run_id:
        run.origin.run_id, run.origin.sequence = row.origin_run_id, row.origin_sequence
    run.create_time.FromMicroseconds(row.create_us)
    if row.end_us is not None:
        run.end_time.FromMicroseconds(row.end_us)
    if row.result is not None:
        run.result.MergeFromString(row.result)
    return run


def settings_to_proto(definition: AgentDefinition | WorkflowDefinition) -> run_pb2.RunSettings:
    """What a run runs with, as callers see it: no secrets."""
    if isinstance(definition, AgentDefinition):
        return _agent_settings(definition)
    settings = run_pb2.RunSettings(
        budget=_budget(definition.budget), session_budget=_budget(definition.session_budget)
    )
    if definition.timeout_s is not None:
        set_seconds(settings.timeout, definition.timeout_s)
    return settings


def _agent_settings(agent: AgentDefinition) -> run_pb2.RunSettings:
    settings = run_pb2.RunSettings(
        max_iterations=agent.max_iterations,
        tool_concurrency=agent.tool_concurrency,
        include_history=agent.include_history,
        budget=_budget(agent.budget),
        session_budget=_budget(agent.session_budget),
        output_schema_json=agent.output_schema_json,
        max_repairs=agent.max_repairs,
        max_context_tokens=agent.max_context_tokens,
        stall_after=agent.stall_after,
        system_prompt=agent.system_prompt,
    )
    if agent.timeout_s is not None:
        set_seconds(settings.timeout, agent.timeout_s)
    set_seconds(settings.input_timeout, agent.input_timeout_s)
    for llm in agent.llms:
        shown = settings.llms.add(
            name=llm.name, model=llm.model, transport=llm.transport, max_retries=llm.max_retries
        )
        set_seconds(shown.timeout, llm.timeout_s)
        writes = llm.generation
        shown.generation.stop.extend(writes.stop)
        for name in ("temperature", "top_p", "max_output_tokens", "seed"):
            value = getattr(writes, name)
            if value is not None:
                setattr(shown.generation, name, value)
    return settings


def _budget(budget: Budget) -> BudgetMessage:
    shown = BudgetMessage(
        max_tokens=budget.max_tokens,
        max_cost_nano_usd=budget.max_cost_nano_usd,
        max_tool_calls=budget.max_tool_calls,
        max_turns=budget.max_turns,
    )
    if budget.max_duration_s is not None:
        set_seconds(shown.max_duration, budget.max_duration_s)
    return shown


def input_to_proto(row: InputRow) -> input_pb2.InputRequest:
    """A request for input as callers see it."""
    request = input_pb2.InputRequest.FromString(row.request)
    request.state = input_pb2.InputState.ValueType(row.state)
    if row.answer is not None:
        request.answer.MergeFromString(row.answer)
    if request.answer.HasField("expired"):
        # In the store an expiry is an answer like any other, so that one of the two counts.
        request.state = input_pb2.INPUT_STATE_CLOSED
    return request


def attachment_of(blob: BlobRow) -> Attachment:
    """A blob as events and callers name it."""
    return Attachment(
        blob_id=blob.blob_id, mime_type=blob.mime_type, name=blob.name, size_bytes=len(blob.data)
    )


def session_to_proto(row: SessionRow) -> session_pb2.Session:
    """A session as callers see it."""
    totals = row.totals
    session = session_pb2.Session(
        session_id=row.session_id,
        namespace=row.namespace,
        message_count=row.message_count,
        labels=row.labels,
        active_run_id=row.active_run_id or "",
        base_session_id=row.base_session_id,
        totals=session_pb2.SessionTotals(
            runs=totals.runs,
            usage=Usage(
                input_tokens=totals.input_tokens,
                output_tokens=totals.output_tokens,
                cached_input_tokens=totals.cached_input_tokens,
                reasoning_tokens=totals.reasoning_tokens,
            ),
            cost=Cost(nano_usd=totals.nano_usd, unknown=totals.unknown_cost),
            turns=totals.turns,
            tool_calls=totals.tool_calls,
        ),
    )
    set_seconds(session.totals.duration, totals.duration_us / 1_000_000)
    session.create_time.FromMicroseconds(row.create_us)
    session.update_time.FromMicroseconds(row.update_us)
    return session


def message_to_proto(row: MessageRow) -> session_pb2.SessionMessage:
    """A message of a session as callers see it."""
    message = session_pb2.SessionMessage(
        position=row.position, run_id=row.run_id, message_json=row.message_json
    )
    message.time.FromMicroseconds(row.time_us)
    return message


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
