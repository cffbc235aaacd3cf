"""The tool calls of one turn: recorded, made side by side, and answered to the model whatever happens."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from retinue.common.v1.error_pb2 import ERROR_REASON_INVALID_ARGUMENT, ERROR_REASON_MCP_TOOL_NOT_FOUND
from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_DENIED,
    RequestedToolCall,
    ToolCallCompleted,
)
from retinue.engine.v1.run_pb2 import RunError
from retinue.errors import RetinueError, RunDepthExceededError
from retinue_engine.agent.approvals import judge
from retinue_engine.agent.conversation import parse_arguments
from retinue_engine.agent.mcp_calls import call_mcp_tool
from retinue_engine.agent.questions import ask_user
from retinue_engine.agent.toolset import AnyTool, RunTool, ToolSet
from retinue_engine.agent.work import AgentRun
from retinue_engine.llm.tool_calls import without_surrogates
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.tools import Tool

CallRun = Callable[[AgentRun, RequestedToolCall, RunTool, str], Awaitable[bool]]
"""Runs what was called as a tool with a message; whether the call has its result."""


MAX_TOLD = 4096
"""Characters of changed arguments that the model is told; with a long result there is no room for more."""


class ToolCalls:
    """Makes the calls that the conversation's last answer asks for and that have no result yet."""

    def __init__(self, run: AgentRun, tools: ToolSet, call_run: CallRun) -> None:
        self._run = run
        self._tools = tools
        self._call_run = call_run
        self._places = asyncio.Semaphore(run.agent.tool_concurrency)

    async def complete(self) -> bool:
        """Make the calls; whether all have their results.

        False where those that are left wait for somebody outside, or the run is to pause. Raises
        ToolCallInterruptedError where one was under way when an engine stopped, and its policy is to fail.
        """
        calls = list(self._run.conversation.unanswered.values())
        done = await (self._advance(calls[0]) if len(calls) == 1 else self._side_by_side())
        if not done:
            # Where a time limit is over the run ends here: what waits gives it no other chance.
            await asyncio.sleep(0)
        return done

    async def _side_by_side(self) -> bool:
        unanswered, arrivals = self._run.conversation.unanswered, self._run.work.arrivals
        running: dict[str, asyncio.Task[bool]] = {}
        async with asyncio.TaskGroup() as group:
            seen = -1
            while True:
                if seen != arrivals.count:
                    # What waited for an answer may have it now.
                    seen = arrivals.count
                    for call in list(unanswered.values()):
                        if call.call_id not in running:
                            running[call.call_id] = group.create_task(self._advance_in_turn(call))
                if not running:
                    return not unanswered
                arrival = arrivals.next()
                waiting: set[asyncio.Future[Any]] = {*running.values(), arrival}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                arrival.cancel()
                running = {call_id: task for call_id, task in running.items() if not task.done()}

    async def _advance_in_turn(self, call: RequestedToolCall) -> bool:
        async with self._places:
            return not self._run.work.paused() and await self._advance(call)

    async def _advance(self, call: RequestedToolCall) -> bool:
        """Take a call as far as it can go now; whether it has its result."""
        tool = self._tools.by_name.get(call.name)
        if tool is None:
            return self._refuse(call, None, self._unknown(call.name))
        arguments = parse_arguments(call.arguments_json)
        if isinstance(arguments, str):
            return self._refuse(call, tool, _invalid(arguments))
        if isinstance(tool, Tool):
            return await self._advance_mcp(call, tool)
        needed = "message" if isinstance(tool, RunTool) else "question"
        text = arguments.get(needed)
        if not isinstance(text, str) or not text.strip():
            return self._refuse(call, tool, _missing(needed))
        if isinstance(tool, RunTool):
            return await self._call_run_tool(call, tool, without_surrogates(text))
        return self._answered(call, ask_user(self._run, call, arguments))

    async def _advance_mcp(self, call: RequestedToolCall, tool: Tool) -> bool:
        verdict = judge(self._run, call, tool)
        if verdict.denial:
            denied = ToolCallCompleted(outcome=TOOL_CALL_OUTCOME_DENIED, text=verdict.denial)
            return self._answered(call, denied)
        if verdict.arguments_json is None:
            return False
        await self._call_mcp(call, tool, verdict.arguments_json, changed=verdict.changed)
        return True

    def _unknown(self, name: str) -> ToolCallCompleted:
        known = ", ".join(sorted(self._tools.by_name)) or "none"
        text = f"there is no tool {name!r}; the tools are: {known}"
        return _failed(text, RunError(reason=ERROR_REASON_MCP_TOOL_NOT_FOUND, message=text))

    def _refuse(self, call: RequestedToolCall, tool: AnyTool | None, why: ToolCallCompleted) -> bool:
        self._start(call, tool, call.arguments_json)
        self._complete(call, why)
        return True

    def _answered(self, call: RequestedToolCall, completed: ToolCallCompleted | None) -> bool:
        if completed is None:
            return False
        self._complete(call, completed)
        return True

    async def _call_run_tool(self, call: RequestedToolCall, tool: RunTool, message: str) -> bool:
        if call.call_id not in self._run.conversation.started:
            self._start(call, tool, call.arguments_json)
        try:
            return await self._call_run(self._run, call, tool, message)
        except RunDepthExceededError as error:
            self._complete(call, _failed(f"it was not run: {error.message}", run_error(error)))
            return True

    async def _call_mcp(
        self, call: RequestedToolCall, tool: Tool, arguments_json: str, *, changed: bool
    ) -> None:
        run = self._run
        asked = run.conversation.approvals.get(call.call_id)
        again = asked is not None and asked.request.approval.interrupted
        if call.call_id not in run.conversation.started or again:
            self._start(call, tool, arguments_json)
            # A call is on record before it is made; those that begin together are one append.
            await run.work.journal.commit_claimed()
        start = time.perf_counter()
        try:
            answer = await call_mcp_tool(run, call, tool, arguments_json, self._key(call))
        except RetinueError as error:
            completed, effects = _failed(f"the tool call failed: {error.message}", run_error(error)), None
        else:
            completed, effects = answer
        if changed:
            given = arguments_json if len(arguments_json) <= MAX_TOLD else f"{arguments_json[:MAX_TOLD]}…"
            completed.text = f"[a person changed the arguments to {given}]\n{completed.text}"
        set_seconds(completed.duration, time.perf_counter() - start)
        completed.call_id = call.call_id
        run.emit(f"turn:{run.conversation.turn}", effects, tool_call_completed=completed)

    def _key(self, call: RequestedToolCall) -> str:
        return f"{self._run.run_id}:{self._run.conversation.turn}:{call.call_id}"

    def _start(self, call: RequestedToolCall, tool: AnyTool | None, arguments_json: str) -> None:
        started = event_pb2.ToolCallStarted(
            call_id=call.call_id,
            server=tool.server.name if isinstance(tool, Tool) else "",
            tool=tool.name if isinstance(tool, Tool) else call.name,
            arguments_json=arguments_json,
            idempotency_key=self._key(call),
        )
        self._run.emit(f"turn:{self._run.conversation.turn}", tool_call_started=started)

    def _complete(self, call: RequestedToolCall, completed: ToolCallCompleted) -> None:
        completed.call_id = call.call_id
        self._run.emit(f"turn:{self._run.conversation.turn}", tool_call_completed=completed)


def _missing(name: str) -> ToolCallCompleted:
    return _invalid(f"the argument {name!r} is missing, or not a text: call the tool again with it")


def _invalid(text: str) -> ToolCallCompleted:
    return _failed(text, RunError(reason=ERROR_REASON_INVALID_ARGUMENT, message=text))


def _failed(text: str, error: RunError) -> ToolCallCompleted:
    return ToolCallCompleted(outcome=TOOL_CALL_OUTCOME_CALL_FAILED, text=text, error=error)
