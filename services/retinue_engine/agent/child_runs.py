"""Runs inside a run: how they begin and how they end."""

import time

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_SUCCEEDED,
    ToolCallCompleted,
)
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED, RunResult
from retinue.errors import RunDepthExceededError
from retinue.registry.v1.component_pb2 import ComponentRef
from retinue_engine.agent.mcp_calls import cut, fits
from retinue_engine.agent.tree import Child
from retinue_engine.agent.work import AnyRun, Work
from retinue_engine.ids import new_run_id
from retinue_engine.outcome import cancelled, fill_result
from retinue_engine.story.step_sessions import StepSession

NO_SESSION = StepSession()


def begin_child(
    run: AnyRun,
    target: ComponentRef,
    message: str,
    path: str,
    call_id: str = "",
    session: StepSession = NO_SESSION,
) -> Child:
    """Begin a run inside a run, at a path. Raises RunDepthExceededError."""
    if run.depth >= run.work.means.max_depth:
        raise RunDepthExceededError(
            f"runs inside runs are nested {run.depth} deep here, and the engine allows no more: do "
            "without, or raise RETINUE_MAX_DEPTH",
            max_depth=run.work.means.max_depth,
        )
    started = event_pb2.ChildRunStarted(
        parent_run_id=run.run_id,
        call_id=call_id,
        target=target,
        message=message,
        depth=run.depth + 1,
        session_id=session.session_id,
        history_position=session.position,
    )
    run_id = new_run_id()
    if session.history:
        run.work.tree.remember(run_id, session.history)
    run.work.emit(run_id, path, child_run_started=started)
    return run.work.tree.child(run_id)


def end_child(work: Work, child: Child, result: RunResult) -> None:
    """Write the end of a child, and before it that of what still runs inside it."""
    for inner in list(work.tree.at_work(child.run_id)):
        finish_child(work, inner, cancelled("the run that called it has ended"))
    finish_child(work, child, result)


def finish_child(work: Work, child: Child, result: RunResult) -> None:
    """Write the end of a child. What its caller is not told of a long answer stands in its last message."""
    fill_result(result, child.state, time.time_ns() // 1000 - child.create_us)
    result.session_id = child.started.session_id
    result.output = cut(result.output)
    if not fits(result.structured_json):
        result.structured_json = ""
    finished = event_pb2.ChildRunFinished(result=result)
    work.emit(child.run_id, child.path, child_run_finished=finished)


def completed_call(result: run_pb2.RunResult) -> ToolCallCompleted:
    """What the caller's model is told of a run that answers its call."""
    if result.state == RUN_STATE_SUCCEEDED:
        completed = ToolCallCompleted(
            outcome=TOOL_CALL_OUTCOME_SUCCEEDED,
            text=result.structured_json or result.output,
            structured_json=result.structured_json,
        )
    else:
        completed = ToolCallCompleted(
            outcome=TOOL_CALL_OUTCOME_CALL_FAILED,
            text=f"it failed: {result.error.message}",
            error=result.error,
        )
    completed.duration.CopyFrom(result.duration)
    return completed
