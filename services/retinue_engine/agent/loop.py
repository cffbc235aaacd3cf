"""The agent loop: ask the model, call the tools it asks for, until it gives its last word."""

import functools

from retinue.engine.v1 import event_pb2
from retinue.errors import MaxIterationsReachedError, OutputInvalidError, RunStalledError
from retinue_engine.agent.budget import check_llm_call, check_tool_calls
from retinue_engine.agent.model_calls import ModelCalls
from retinue_engine.agent.output import OutputSchema
from retinue_engine.agent.tool_calls import CallRun, ToolCalls
from retinue_engine.agent.toolset import ToolSet, tool_set
from retinue_engine.agent.work import AgentRun
from retinue_engine.tools import NO_TOOLS, CallerScope

_REPEATED = (
    "You have asked for the same tool calls with the same arguments {count} times in a row, and nothing has "
    "changed. Do something else, or give your answer."
)
_EMPTY = "Your answer was empty. Give your answer in words, or call a tool."


_compiled = functools.lru_cache(maxsize=256)(OutputSchema)
"""Most runs have the same schema."""


class AgentLoop:
    """One agent run. Every step goes by the conversation, so that a run that is taken up again goes on."""

    def __init__(self, run: AgentRun, call_run: CallRun) -> None:
        self._run = run
        self._call_run = call_run
        schema_json = run.agent.output_schema_json
        self._schema = _compiled(schema_json) if schema_json else None
        self.structured_json = ""
        """The last word as JSON that fits the output schema, where there is one."""

    async def run(self) -> bool:
        """Go on to the model's last word; whether it was given.

        False where all that can go on waits for somebody outside, or the run is to pause. Raises a
        RetinueError where the run fails.
        """
        try:
            return await self._go_on()
        except BaseExceptionGroup as group:
            # Of the errors of calls side by side the first is the run's.
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise first from None

    async def _go_on(self) -> bool:
        run, conversation = self._run, self._run.conversation
        if conversation.answered and self._is_last_word():
            return True  # the engine stopped between the last word and the run's end
        tools = await self._list_tools()
        asking = ModelCalls(run, self._schema)
        calling = ToolCalls(run, tools, self._call_run)
        asking.discard_open()
        while not run.work.paused():
            if conversation.unanswered:
                self._check_repeats()
                check_tool_calls(run)
                if not await calling.complete():
                    return False
            else:
                self._notice_repeats()
                self._check_iterations()
                check_llm_call(run)
                await asking.ask(tools)
            if conversation.answered and self._is_last_word():
                return True
        return False

    async def _list_tools(self) -> ToolSet:
        run = self._run
        listed = NO_TOOLS
        if run.agent.servers:
            row = run.work.row
            scope = CallerScope(row.session_id, row.run_id)
            listed = await run.work.means.toolbox.list_tools(
                row.namespace, run.agent.servers, run.agent.access, scope
            )
        return tool_set(run.agent, listed)

    def _is_last_word(self) -> bool:
        """Whether the answer can stand; where not, the model is told why. Raises where it was told before."""
        conversation = self._run.conversation
        if not conversation.output.strip() and conversation.finish_reason != "content_filter":
            self._nudge(event_pb2.STALL_EMPTY_ANSWER, "empty_answer", _EMPTY)
            return False
        if self._schema is None:
            return True
        checked = self._schema.check(conversation.output)
        if checked.structured_json:
            self.structured_json = checked.structured_json
            return True
        most = self._run.agent.max_repairs
        if conversation.repairs >= most:
            raise OutputInvalidError(
                "the model's answer does not fit the output schema, and it was told so "
                f"{conversation.repairs} times: raise max_repairs, or use another model. {checked.complaint}",
                max_repairs=most,
            )
        rejected = event_pb2.OutputRejected(message=checked.complaint)
        self._run.emit(f"turn:{conversation.turn}", output_rejected=rejected)
        return False

    def _notice_repeats(self) -> None:
        conversation = self._run.conversation
        if conversation.repeats != self._run.agent.stall_after:
            return
        text = _REPEATED.format(count=conversation.repeats)
        # A run that is taken up again after the nudge was told already.
        if conversation.messages[-1].get("content") != text:
            self._nudge(event_pb2.STALL_REPEATED_CALLS, "repeated_calls", text)

    def _check_repeats(self) -> None:
        """Raise RunStalledError where the model goes on asking for the same after it was told so."""
        if self._run.conversation.repeats > self._run.agent.stall_after:
            raise _stalled("repeated_calls")

    def _nudge(self, stall: event_pb2.Stall.ValueType, name: str, text: str) -> None:
        conversation = self._run.conversation
        if conversation.stalls:
            raise _stalled(name)
        noticed = event_pb2.StallNoticed(stall=stall, message=text)
        self._run.emit(f"turn:{conversation.turn}", stall_noticed=noticed)

    def _check_iterations(self) -> None:
        most = self._run.agent.max_iterations
        if self._run.conversation.turns >= most:
            raise MaxIterationsReachedError(
                f"the agent asked its model {most} times without coming to an answer: raise max_iterations, "
                "or see why it goes on calling tools",
                max_iterations=most,
            )


def _stalled(name: str) -> RunStalledError:
    what = "asking for the same tool calls" if name == "repeated_calls" else "giving empty answers"
    return RunStalledError(
        f"the model went on {what} after it was told so: see its prompt and its tools, or raise stall_after",
        stall=name,
    )
