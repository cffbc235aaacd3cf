"""The tool calls of one turn: recorded, made side by side, and answered to the model whatever happens."""

import asyncio
import time
from typing import Protocol

from retinue.common.v1.error_pb2 import ERROR_REASON_INVALID_ARGUMENT, ERROR_REASON_MCP_TOOL_NOT_FOUND
from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_SUCCEEDED,
    TOOL_CALL_OUTCOME_TOOL_ERROR,
    RequestedToolCall,
    ToolCallCompleted,
)
from retinue.engine.v1.run_pb2 import RunError
from retinue.errors import RetinueError, ToolCallInterruptedError
from retinue_engine.agent.conversation import Conversation, parse_arguments
from retinue_engine.journal import Journal
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.tools import Tool, Toolbox, ToolList, ToolRequest

MAX_RESULT_BYTES = 384 * 1024
"""Most of a result that a model is told; the rest is cut, and says so. An event holds text and structure."""

MAX_PROGRESS_TEXT = 4 * 1024
"""Most characters of a server's word on its progress."""


class Emit(Protocol):
    """Makes an event of the run and takes it into the conversation."""

    def __call__(self, path: str, **what: object) -> None: ...


class ToolCalls:
    """Makes the calls that the conversation's last answer asks for and that have no result yet."""

    def __init__(
        self,
        *,
        run_id: str,
        namespace: str,
        tools: ToolList,
        toolbox: Toolbox,
        concurrency: int,
        conversation: Conversation,
        journal: Journal,
        emit: Emit,
    ) -> None:
        self._run_id = run_id
        self._namespace = namespace
        self._tools = tools
        self._toolbox = toolbox
        self._places = asyncio.Semaphore(concurrency)
        self._conversation = conversation
        self._journal = journal
        self._emit = emit

    async def complete(self) -> None:
        """Make the calls.

        Raises ToolCallInterruptedError where one was under way when an engine stopped, and making it again
        is not declared safe.
        """
        path = f"turn:{self._conversation.turn}"
        calls = list(self._conversation.unanswered.values())
        for call in calls:
            if call.call_id in self._conversation.started:
                self._check_repeatable(call)
        if len(calls) == 1:
            await self._call(path, calls[0])
            return
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(self._call_in_turn(path, call))

    def _idempotency_key(self, call: RequestedToolCall) -> str:
        return f"{self._run_id}:{self._conversation.turn}:{call.call_id}"

    def _check_repeatable(self, call: RequestedToolCall) -> None:
        tool = self._tools.by_name.get(call.name)
        if tool is None or tool.repeatable:
            return
        raise ToolCallInterruptedError(
            f"the engine stopped while {tool.server.name}/{tool.name} was being called, and it may have "
            "happened: the server declares it neither idempotent nor read-only, so it is not called again",
            server=tool.server.name,
            tool=tool.name,
        )

    def _start(self, path: str, call: RequestedToolCall) -> None:
        tool = self._tools.by_name.get(call.name)
        started = event_pb2.ToolCallStarted(
            call_id=call.call_id,
            server=tool.server.name if tool else "",
            tool=tool.name if tool else call.name,
            arguments_json=call.arguments_json,
            idempotency_key=self._idempotency_key(call),
        )
        self._emit(path, tool_call_started=started)

    async def _call_in_turn(self, path: str, call: RequestedToolCall) -> None:
        async with self._places:
            await self._call(path, call)

    async def _call(self, path: str, call: RequestedToolCall) -> None:
        if call.call_id not in self._conversation.started:
            self._start(path, call)
            # A call is on record before it is made; those that begin together are one append.
            await self._journal.commit()
        start = time.perf_counter()
        completed = await self._outcome(path, call)
        set_seconds(completed.duration, time.perf_counter() - start)
        self._emit(path, tool_call_completed=completed)

    async def _outcome(self, path: str, call: RequestedToolCall) -> ToolCallCompleted:
        tool = self._tools.by_name.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self._tools.by_name)) or "none"
            text = f"there is no tool {call.name!r}; the tools are: {known}"
            return _failed(call, text, RunError(reason=ERROR_REASON_MCP_TOOL_NOT_FOUND, message=text))
        arguments = parse_arguments(call.arguments_json)
        if isinstance(arguments, str):
            return _failed(call, arguments, RunError(reason=ERROR_REASON_INVALID_ARGUMENT, message=arguments))
        try:
            return await self._ask_tool(path, call, tool)
        except RetinueError as error:
            return _failed(call, f"the tool call failed: {error.message}", run_error(error))

    async def _ask_tool(self, path: str, call: RequestedToolCall, tool: Tool) -> ToolCallCompleted:
        def on_progress(progress: float, total: float | None, message: str) -> None:
            update = event_pb2.ToolCallProgress(
                call_id=call.call_id, progress=progress, total=total, message=message[:MAX_PROGRESS_TEXT]
            )
            self._emit(path, tool_call_progress=update)

        request = ToolRequest(
            namespace=self._namespace,
            tool=tool,
            arguments_json=call.arguments_json or "{}",
            idempotency_key=self._idempotency_key(call),
            run_id=self._run_id,
        )
        answer = await self._toolbox.call_tool(request, on_progress)
        return ToolCallCompleted(
            call_id=call.call_id,
            outcome=TOOL_CALL_OUTCOME_TOOL_ERROR if answer.is_error else TOOL_CALL_OUTCOME_SUCCEEDED,
            text=_cut(answer.text),
            structured_json=answer.structured_json if _fits(answer.structured_json) else "",
        )


def _fits(text: str) -> bool:
    # No character has more than 4 bytes; most texts are so short that nobody needs to count.
    return 4 * len(text) <= MAX_RESULT_BYTES or len(text.encode()) <= MAX_RESULT_BYTES


def _cut(text: str) -> str:
    if _fits(text):
        return text
    kept = text.encode()[:MAX_RESULT_BYTES].decode(errors="ignore")
    return f"{kept}\n[cut: {len(text) - len(kept)} more characters]"


def _failed(call: RequestedToolCall, text: str, error: RunError) -> ToolCallCompleted:
    return ToolCallCompleted(
        call_id=call.call_id, outcome=TOOL_CALL_OUTCOME_CALL_FAILED, text=text, error=error
    )
