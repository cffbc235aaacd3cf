"""What follows from an event: the one place that says which rows a journal's events make.

It is asked when an event is made, and again by an engine that takes over a run whose last record may not have
had its effects.
"""

import math
from collections.abc import Callable, Iterable, Iterator

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.engine.v1.service_pb2 import RunRequest
from retinue_engine.agent.tree import Tree
from retinue_engine.convert_memory import memory_from_proto
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.stores.rows import (
    RUN_STATE_RUNNING,
    Effects,
    InputRow,
    RunOutcome,
    RunRow,
    Suspension,
    Totals,
)
from retinue_engine.story.history import definition_of
from retinue_engine.workflow.deadlines import deadlines
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.progress import Progress

_Make = Callable[[RunRow, Tree, event_pb2.RunEvent], Effects]


def effects_of(root: RunRow, tree: Tree, event: event_pb2.RunEvent) -> Effects | None:
    """What follows from an event that the tree has taken in; None where nothing does."""
    which = event.WhichOneof("event")
    make = _MAKE.get(which) if which else None
    return make(root, tree, event) if make else None


def merged(effects: Iterable[Effects | None]) -> Effects | None:
    """Effects of events that are appended together; None where there are none."""
    found = [each for each in effects if each is not None]
    if len(found) <= 1:
        return found[0] if found else None
    return Effects(
        children=[row for each in found for row in each.children],
        inputs=[row for each in found for row in each.inputs],
        received=[input_id for each in found for input_id in each.received],
        blobs=[row for each in found for row in each.blobs],
        memories=[memory for each in found for memory in each.memories],
        outcomes=[outcome for each in found for outcome in each.outcomes],
        suspension=found[-1].suspension,
    )


def _child_started(root: RunRow, _tree: Tree, event: event_pb2.RunEvent) -> Effects:
    started = event.child_run_started
    request = RunRequest(namespace=root.namespace, target=started.target, message=started.message)
    row = RunRow(
        run_id=event.run_id,
        namespace=root.namespace,
        root_run_id=root.run_id,
        request_id="",
        request_digest=b"",
        target_kind=started.target.kind,
        target_name=started.target.name,
        target_version=started.target.version,
        session_id=started.session_id,
        create_us=event.time.ToMicroseconds(),
        request=request.SerializeToString(),
        definition=b"",
        writer=root.writer,
        parent_run_id=started.parent_run_id,
        path=event.path,
        state=RUN_STATE_RUNNING,
    )
    return Effects(children=[row])


def _child_finished(root: RunRow, tree: Tree, event: event_pb2.RunEvent) -> Effects:
    child = tree.child(event.run_id)
    asked = child.state.requests()
    result = event.child_run_finished.result
    session_id = child.started.session_id
    # A step is tried again, and its branches are given up: its session has what came of it.
    keeps = session_id and result.state == run_pb2.RUN_STATE_SUCCEEDED
    outcome = RunOutcome(
        namespace=root.namespace,
        run_id=event.run_id,
        session_id=session_id,
        base_session_id=root.session_id if session_id else "",
        state=result.state,
        end_us=event.time.ToMicroseconds(),
        result=result.SerializeToString(),
        messages=child.state.session_messages() if keeps else (),
        totals=_totals(result, tree.suspended_us - child.suspended_before_us),
    )
    # Nobody can answer any more what it asked.
    unheard = [each.request.input_id for each in asked if each.answer is None]
    return Effects(outcomes=[outcome], received=unheard)


def _input_requested(root: RunRow, _tree: Tree, event: event_pb2.RunEvent) -> Effects:
    request = event.input_requested.request
    row = InputRow(
        input_id=request.input_id,
        namespace=root.namespace,
        root_run_id=root.run_id,
        create_us=request.create_time.ToMicroseconds(),
        expire_us=request.expire_time.ToMicroseconds(),
        request=request.SerializeToString(),
    )
    return Effects(inputs=[row])


def _input_received(_root: RunRow, _tree: Tree, event: event_pb2.RunEvent) -> Effects:
    return Effects(received=[event.input_received.input_id])


def _memory_written(_root: RunRow, _tree: Tree, event: event_pb2.RunEvent) -> Effects:
    return Effects(memories=[memory_from_proto(event.memory_written.memory)])


def _suspended(root: RunRow, tree: Tree, event: event_pb2.RunEvent) -> Effects:
    suspended = event.run_suspended
    attention_us: int | None = None
    # A paused run goes on for a person alone.
    if suspended.state == run_pb2.RUN_STATE_WAITING:
        expiries = [asked.request.expire_time.ToMicroseconds() for asked in tree.pending()]
        deadlines = _deadlines(root, tree, event.time.ToMicroseconds())
        attention_us = min([*expiries, *tree.dues_us(), *deadlines], default=None)
    input_ids = tuple(suspended.input_ids)
    return Effects(suspension=Suspension(root.run_id, suspended.state, attention_us, input_ids))


def _deadlines(root: RunRow, tree: Tree, now_us: int) -> Iterator[int]:
    """When something of the tree has had its time, for as far as it is limited."""
    at_work = list(tree.at_work())
    runs = [(definition_of(root).timeout_s, root.create_us)]
    runs += [(each.definition.timeout_s, each.create_us) for each in at_work]
    states = [(tree.root, definition_of(root)), *((each.state, each.definition) for each in at_work)]
    for timeout_s, create_us in runs:
        if timeout_s is not None:
            yield create_us + math.ceil(timeout_s * 1_000_000)
    for state, definition in states:
        # The steps of code have their time in its process.
        is_code = isinstance(definition, CustomDefinition)
        if isinstance(state, Progress) and isinstance(definition, WorkflowDefinition) and not is_code:
            yield from deadlines(definition, state, now_us)


def _finished(root: RunRow, tree: Tree, event: event_pb2.RunEvent) -> Effects:
    result = event.run_finished.result
    return Effects(
        outcomes=[
            RunOutcome(
                namespace=root.namespace,
                run_id=root.run_id,
                session_id=root.session_id,
                state=result.state,
                end_us=event.time.ToMicroseconds(),
                result=result.SerializeToString(),
                messages=tree.root.session_messages(),
                totals=_totals(result, tree.suspended_us),
                closes_inputs=bool(tree.pending()),
            )
        ]
    )


def _totals(result: run_pb2.RunResult, suspended_us: int) -> Totals:
    usage = result.usage
    return Totals(
        runs=1,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        nano_usd=result.cost.nano_usd,
        unknown_cost=result.cost.unknown,
        turns=result.turns,
        tool_calls=result.tool_calls,
        # A session's budget of time leaves out what people took.
        duration_us=max(0, result.duration.ToMicroseconds() - suspended_us),
    )


_MAKE: dict[str, _Make] = {
    "child_run_started": _child_started,
    "child_run_finished": _child_finished,
    "input_requested": _input_requested,
    "input_received": _input_received,
    "memory_written": _memory_written,
    "run_suspended": _suspended,
    "run_finished": _finished,
}
