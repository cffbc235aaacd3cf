"""An agent that is called as a tool: a run inside the caller's, its events under the call's place."""

import time

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_SUCCEEDED,
    RequestedToolCall,
    ToolCallCompleted,
)
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED, RunResult
from retinue.errors import ClaimLostError, RetinueError, RunDepthExceededError
from retinue.registry.v1.component_pb2 import COMPONENT_KIND_AGENT, ComponentRef
from retinue_engine.agent.limits import time_limit
from retinue_engine.agent.loop import AgentLoop
from retinue_engine.agent.mcp_calls import cut, fits
from retinue_engine.agent.toolset import AgentTool
from retinue_engine.agent.tree import Child
from retinue_engine.agent.work import AgentRun, Work
from retinue_engine.ids import new_run_id
from retinue_engine.outcome import cancelled, failed, fill_result, succeeded


async def call_agent(run: AgentRun, call: RequestedToolCall, tool: AgentTool, message: str) -> bool:
    """Run the agent to its end, or as far as it can go now; whether the call has its result.

    A run that was under way when an engine stopped goes on. Raises RunDepthExceededError.
    """
    turn = f"turn:{run.conversation.turn}"
    path = run.place(f"{turn}/call:{run.conversation.places[call.call_id]}")
    child = run.work.tree.child_of_call(run.run_id, path)
    if child is None:
        child = _begin(run, call, tool, message, path)
    result = child.result
    if result is None:
        result = await _work(run, child)
        if result is None:
            return False
        for inner in list(run.work.tree.children(child.path)):
            if inner.result is None:
                finish_child(run.work, inner, cancelled("the run that called it has ended"))
        finish_child(run.work, child, result)
    completed = _completed(result)
    completed.call_id = call.call_id
    run.emit(turn, tool_call_completed=completed)
    return True


def _begin(run: AgentRun, call: RequestedToolCall, tool: AgentTool, message: str, path: str) -> Child:
    if run.depth >= run.work.means.max_depth:
        raise RunDepthExceededError(
            f"agents that call agents are nested {run.depth} deep here, and the engine allows no more: do "
            "without, or raise RETINUE_MAX_DEPTH",
            max_depth=run.work.means.max_depth,
        )
    callee = tool.callee
    started = event_pb2.ChildRunStarted(
        parent_run_id=run.run_id,
        call_id=call.call_id,
        target=ComponentRef(kind=COMPONENT_KIND_AGENT, name=callee.name, version=callee.version),
        message=message,
        depth=run.depth + 1,
    )
    run_id = new_run_id()
    run.work.emit(run_id, path, child_run_started=started)
    return run.work.tree.child(run_id)


async def _work(run: AgentRun, child: Child) -> RunResult | None:
    """The beginning of its result; None where it waits for somebody outside, or is to pause."""
    own = AgentRun(
        work=run.work,
        run_id=child.run_id,
        path=child.path,
        depth=child.started.depth,
        agent=child.agent,
        conversation=child.conversation,
        above=run,
    )
    loop = AgentLoop(own, call_agent)
    try:
        async with time_limit(child.agent.timeout_s, child.create_us):
            if not await loop.run():
                return None
    except ClaimLostError:
        raise
    except RetinueError as error:
        return failed(error)
    result = succeeded()
    result.structured_json = loop.structured_json
    return result


def finish_child(work: Work, child: Child, result: RunResult) -> None:
    """Write the end of a child. What its caller is not told of a long answer stands in its last message."""
    fill_result(result, child.conversation, time.time_ns() // 1000 - child.create_us)
    result.output = cut(result.output)
    if not fits(result.structured_json):
        result.structured_json = ""
    finished = event_pb2.ChildRunFinished(result=result)
    work.emit(child.run_id, child.path, child_run_finished=finished)


def _completed(result: run_pb2.RunResult) -> ToolCallCompleted:
    """What the caller's model is told."""
    if result.state == RUN_STATE_SUCCEEDED:
        completed = ToolCallCompleted(
            outcome=TOOL_CALL_OUTCOME_SUCCEEDED,
            text=result.structured_json or result.output,
            structured_json=result.structured_json,
        )
    else:
        completed = ToolCallCompleted(
            outcome=TOOL_CALL_OUTCOME_CALL_FAILED,
            text=f"the agent failed: {result.error.message}",
            error=result.error,
        )
    completed.duration.CopyFrom(result.duration)
    return completed
