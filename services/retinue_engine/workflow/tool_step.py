"""One try of a step that calls a tool."""

import json
import time

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import TOOL_CALL_OUTCOME_CALL_FAILED, TOOL_CALL_OUTCOME_TOOL_ERROR
from retinue.errors import (
    McpRequestRefusedError,
    McpToolNotFoundError,
    RetinueError,
    ToolCallInterruptedError,
    error_from_facts,
)
from retinue_engine.agent.budget import check_tool_calls
from retinue_engine.agent.mcp_calls import MAX_PROGRESS_TEXT, completed_of
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.tools import Tool, ToolRequest
from retinue_engine.workflow.definition import ToolAction
from retinue_engine.workflow.result import StepResult


async def call_tool(run: WorkflowRun, place: str, action: ToolAction, arguments_json: str) -> StepResult:
    """What the tool answered. Raises a RetinueError where it failed, or may have been called already.

    `place` names the try, `step:look/try:1`; its call is made once, whatever happens to the engine.
    """
    progress, call_id = run.state, place
    done = progress.results.get(call_id)
    if done is None:
        tool = await _find(run, action)
        if call_id in progress.started and not tool.repeatable:
            raise ToolCallInterruptedError(
                f"the engine stopped while {action.server.name}/{action.tool} was being called, and it may "
                "have happened: the tool is not declared repeatable, so it is not called again",
                server=action.server.name,
                tool=action.tool,
            )
        done = await _call(run, place, tool, arguments_json)
    if done.outcome == TOOL_CALL_OUTCOME_CALL_FAILED:
        raise error_from_facts(done.error.reason, done.error.message, done.error.metadata)
    if done.outcome == TOOL_CALL_OUTCOME_TOOL_ERROR:
        raise McpRequestRefusedError(
            f"the tool {action.server.name}/{action.tool} says that it failed: {done.text[:1000]}",
            server=action.server.name,
        )
    structured = json.loads(done.structured_json) if done.structured_json else None
    return StepResult(done.text, structured)


async def _find(run: WorkflowRun, action: ToolAction) -> Tool:
    listed = await run.work.means.toolbox.list_tools(run.work.row.namespace, [action.server])
    for tool in listed.by_name.values():
        if tool.name == action.tool:
            return tool
    names = ", ".join(sorted(each.name for each in listed.by_name.values())[:20]) or "none"
    raise McpToolNotFoundError(
        f"MCP server {action.server.name} has no tool {action.tool}: it has {names}",
        server=action.server.name,
        tool=action.tool,
    )


async def _call(run: WorkflowRun, place: str, tool: Tool, arguments_json: str) -> event_pb2.ToolCallCompleted:
    key = f"{run.run_id}:{place}"
    if place not in run.state.started:
        check_tool_calls(run, asked=1)
        started = event_pb2.ToolCallStarted(
            call_id=place,
            server=tool.server.name,
            tool=tool.name,
            arguments_json=arguments_json,
            idempotency_key=key,
        )
        run.emit(place, tool_call_started=started)
        # A call is on record before it is made.
        await run.work.journal.commit_claimed()

    def on_progress(progress: float, total: float | None, message: str) -> None:
        update = event_pb2.ToolCallProgress(
            call_id=place, progress=progress, total=total, message=message[:MAX_PROGRESS_TEXT]
        )
        run.emit(place, tool_call_progress=update)

    request = ToolRequest(
        namespace=run.work.row.namespace,
        tool=tool,
        arguments_json=arguments_json,
        idempotency_key=key,
        run_id=run.work.row.run_id,
    )
    start = time.perf_counter()
    try:
        answer = await run.work.means.toolbox.call_tool(request, on_progress)
    except RetinueError as error:
        completed, effects = (
            event_pb2.ToolCallCompleted(
                outcome=TOOL_CALL_OUTCOME_CALL_FAILED, text=error.message, error=run_error(error)
            ),
            None,
        )
    else:
        completed, effects = completed_of(run.work.row.run_id, answer)
    set_seconds(completed.duration, time.perf_counter() - start)
    completed.call_id = place
    run.emit(place, effects, tool_call_completed=completed)
    return completed
