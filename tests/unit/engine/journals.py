"""Journals of run trees, written event by event, for tests of what is folded from them."""

from typing import Any

from retinue.common.v1 import error_pb2, usage_pb2
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2

ROOT = "run-root"
SECOND_US = 1_000_000


class Story:
    """Events of one tree. Each comes a second after the one before, unless `wait` says more."""

    def __init__(self) -> None:
        self.events: list[event_pb2.RunEvent] = []
        self.now_us = 1_000 * SECOND_US

    def add(self, run_id: str = ROOT, path: str = "", **what: Any) -> event_pb2.RunEvent:
        self.now_us += SECOND_US
        event = event_pb2.RunEvent(run_id=run_id, sequence=len(self.events) + 1, path=path, **what)
        event.time.FromMicroseconds(self.now_us)
        self.events.append(event)
        return event

    def wait(self, seconds: int) -> None:
        self.now_us += seconds * SECOND_US

    def start(self, agent: str = "boss") -> None:
        self.add().run_started.target.name = agent

    def claim(self) -> event_pb2.RunEvent:
        return self.add(run_claimed=event_pb2.RunClaimed(engine_id="e"))

    def suspend(self, state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_WAITING) -> None:
        self.add(run_suspended=event_pb2.RunSuspended(state=state))

    def finish(self, state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_SUCCEEDED, **result: Any) -> None:
        end = run_pb2.RunResult(state=state, **result)
        self.add(run_finished=event_pb2.RunFinished(result=end))

    def begin_child(
        self, run_id: str, path: str, agent: str, parent: str = ROOT, call_id: str = "c1"
    ) -> None:
        event = self.add(run_id, path)
        event.child_run_started.parent_run_id = parent
        event.child_run_started.call_id = call_id
        event.child_run_started.target.name = agent

    def end_child(
        self,
        run_id: str,
        path: str,
        state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_SUCCEEDED,
        words: str = "",
    ) -> event_pb2.RunEvent:
        result = run_pb2.RunResult(state=state)
        if words:
            result.error.message = words
        return self.add(run_id, path, child_run_finished=event_pb2.ChildRunFinished(result=result))

    def turn(self, path: str, run_id: str = ROOT, llm: str = "gpt", model: str = "gpt-x") -> None:
        self.add(run_id, path, turn_started=event_pb2.TurnStarted(llm=llm, model=model))

    def answer(
        self,
        path: str,
        run_id: str = ROOT,
        *,
        tokens: int = 10,
        nano_usd: int = 100,
        unknown: bool = False,
        calls: tuple[str, ...] = (),
        seconds: int = 2,
        model: str = "",
        finish_reason: str = "stop",
    ) -> event_pb2.RunEvent:
        message = event_pb2.MessageCompleted(
            finish_reason=finish_reason,
            usage=usage_pb2.Usage(input_tokens=tokens, output_tokens=1),
            cost=usage_pb2.Cost(nano_usd=nano_usd, unknown=unknown),
            model=model,
        )
        message.duration.seconds = seconds
        for call_id in calls:
            message.tool_calls.add(call_id=call_id, name="look", arguments_json="{}")
        return self.add(run_id, path, message_completed=message)

    def discard(self, path: str, *, next_llm: str = "", error: str = "") -> event_pb2.RunEvent:
        discarded = event_pb2.MessageDiscarded(reason="the engine stopped", next_llm=next_llm)
        if error:
            discarded.error.message = error
        return self.add(ROOT, path, message_discarded=discarded)

    def call(
        self, path: str, call_id: str = "c1", run_id: str = ROOT, server: str = "web", tool: str = "look"
    ) -> event_pb2.RunEvent:
        started = event_pb2.ToolCallStarted(call_id=call_id, server=server, tool=tool)
        return self.add(run_id, path, tool_call_started=started)

    def result(
        self,
        path: str,
        call_id: str = "c1",
        run_id: str = ROOT,
        outcome: event_pb2.ToolCallOutcome.ValueType = event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED,
        *,
        text: str = "",
        seconds: int = 4,
    ) -> event_pb2.RunEvent:
        completed = event_pb2.ToolCallCompleted(call_id=call_id, outcome=outcome, text=text)
        completed.duration.seconds = seconds
        return self.add(run_id, path, tool_call_completed=completed)

    def ask_approval(self, path: str, call_id: str = "c1", run_id: str = ROOT) -> None:
        approval = input_pb2.ToolCallApproval(server="web", tool="look")
        request = input_pb2.InputRequest(call_id=call_id, approval=approval)
        self.add(run_id, path, input_requested=event_pb2.InputRequested(request=request))


def llm_error(words: str) -> run_pb2.RunError:
    return run_pb2.RunError(reason=error_pb2.ERROR_REASON_LLM_UNAVAILABLE, message=words)


def family() -> Story:
    """A boss whose second turn asks a helper, which looks once; then the boss answers."""
    story = Story()
    story.start("boss")
    story.claim()
    story.turn("turn:1")
    story.answer("turn:1", tokens=10, nano_usd=100, calls=("c1",))
    story.call("turn:1/call:1")
    story.result("turn:1/call:1")
    story.turn("turn:2")
    story.answer("turn:2", tokens=20, nano_usd=200, calls=("c1",))
    story.call("turn:2/call:1", server="", tool="helper")
    story.begin_child("run-child", "turn:2/call:1", "helper")
    story.turn("turn:2/call:1/turn:1", "run-child", llm="small", model="small-x")
    story.answer("turn:2/call:1/turn:1", "run-child", tokens=1000, nano_usd=5, calls=("c1",))
    story.call("turn:2/call:1/turn:1/call:1", run_id="run-child")
    story.result("turn:2/call:1/turn:1/call:1", run_id="run-child", seconds=2)
    story.turn("turn:2/call:1/turn:2", "run-child", llm="small", model="small-x")
    story.answer("turn:2/call:1/turn:2", "run-child", tokens=2000, nano_usd=7, unknown=True)
    story.end_child("run-child", "turn:2/call:1")
    story.result("turn:2/call:1", seconds=8)
    story.turn("turn:3")
    story.answer("turn:3", tokens=30, nano_usd=300)
    story.finish()
    return story
