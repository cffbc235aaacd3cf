"""What works on a run of any kind, and on the runs inside it."""

from retinue.engine.v1.event_pb2 import RequestedToolCall
from retinue.engine.v1.run_pb2 import RunResult
from retinue.errors import ClaimLostError, RetinueError
from retinue.registry.v1.component_pb2 import ComponentRef
from retinue_engine.agent.child_runs import begin_child, completed_call, end_child
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.limits import time_limit
from retinue_engine.agent.loop import AgentLoop
from retinue_engine.agent.toolset import RunTool
from retinue_engine.agent.tree import Child, Definition, Standing
from retinue_engine.agent.work import AgentRun, AnyRun, Work, WorkflowRun
from retinue_engine.custom.loop import CustomLoop
from retinue_engine.custom.progress import CustomProgress
from retinue_engine.definition import AgentDefinition
from retinue_engine.outcome import failed, succeeded
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.graph import GraphLoop
from retinue_engine.workflow.linear import LinearLoop
from retinue_engine.workflow.progress import Progress

Loop = AgentLoop | LinearLoop | GraphLoop | CustomLoop


def root_loop(work: Work, definition: Definition) -> Loop:
    """What works on the root of a tree."""
    return _loop(work, work.row.run_id, "", 0, definition, work.tree.root, None)


def _loop(
    work: Work,
    run_id: str,
    path: str,
    depth: int,
    definition: Definition,
    state: Standing,
    above: AnyRun | None,
) -> Loop:
    if isinstance(definition, WorkflowDefinition) and isinstance(state, Progress):
        run = WorkflowRun(work, run_id, path, depth, definition, state, above)
        if isinstance(state, CustomProgress):
            return CustomLoop(run, work_on_child)
        return LinearLoop(run, work_on_child) if definition.edges is None else GraphLoop(run, work_on_child)
    if isinstance(definition, AgentDefinition) and isinstance(state, Conversation):
        return AgentLoop(AgentRun(work, run_id, path, depth, definition, state, above), call_run)
    raise TypeError(f"{run_id} runs one thing and stands like another")


async def work_on_child(run: AnyRun, child: Child) -> RunResult | None:
    """The beginning of a child's result; None where it waits for somebody outside, or is to pause."""
    depth = child.started.depth
    loop = _loop(run.work, child.run_id, child.path, depth, child.definition, child.state, run)
    try:
        async with time_limit(child.definition.timeout_s, child.create_us):
            if not await loop.run():
                return None
    except ClaimLostError:
        raise
    except RetinueError as error:
        return failed(error)
    result = succeeded()
    result.structured_json = loop.structured_json
    return result


async def call_run(run: AgentRun, call: RequestedToolCall, tool: RunTool, message: str) -> bool:
    """Run what a model calls as a tool, as far as it can go now; whether the call has its result.

    A run that was under way when an engine stopped goes on. Raises RunDepthExceededError.
    """
    turn = f"turn:{run.conversation.turn}"
    path = run.place(f"{turn}/call:{run.conversation.places[call.call_id]}")
    child = run.work.tree.child_of_call(run.run_id, path)
    if child is None:
        callee = tool.callee
        target = ComponentRef(kind=callee.kind, name=callee.name, version=callee.version)
        child = begin_child(run, target, message, path, call.call_id)
    result = child.result
    if result is None:
        result = await work_on_child(run, child)
        if result is None:
            return False
        end_child(run.work, child, result)
    completed = completed_call(result)
    completed.call_id = call.call_id
    run.emit(turn, tool_call_completed=completed)
    return True
