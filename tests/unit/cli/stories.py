"""Runs as lists of events, for tests of how they are shown."""

from google.protobuf.duration_pb2 import Duration

from retinue.common.v1 import error_pb2, usage_pb2
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from retinue.registry.v1 import component_pb2

RUN_ID = "run-0123456789abcdef01234567"
SESSION_ID = "agent-1f2e3d4c"


def numbered(*events: event_pb2.RunEvent) -> list[event_pb2.RunEvent]:
    """The events with their numbers, and with their run where they have none."""
    for number, event in enumerate(events, start=1):
        event.run_id = event.run_id or RUN_ID
        event.sequence = number
    return list(events)


def started(agent: str = "assistant") -> event_pb2.RunEvent:
    target = component_pb2.ComponentRef(kind=component_pb2.COMPONENT_KIND_AGENT, name=agent, version=1)
    return event_pb2.RunEvent(
        run_started=event_pb2.RunStarted(target=target, session_id=SESSION_ID, message="hello")
    )


def claimed() -> event_pb2.RunEvent:
    return event_pb2.RunEvent(run_claimed=event_pb2.RunClaimed(engine_id="engine-1"))


def turn(number: int = 1) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(
        turn_started=event_pb2.TurnStarted(turn=number, llm="scripted", model="scripted")
    )


def text(piece: str) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(text_delta=event_pb2.TextDelta(text=piece))


def message(whole: str, finish_reason: str = "stop") -> event_pb2.RunEvent:
    return event_pb2.RunEvent(
        message_completed=event_pb2.MessageCompleted(text=whole, finish_reason=finish_reason)
    )


def discarded(reason: str = "") -> event_pb2.RunEvent:
    return event_pb2.RunEvent(message_discarded=event_pb2.MessageDiscarded(from_sequence=2, reason=reason))


def call(call_id: str, tool: str, arguments: str = "{}", server: str = "time") -> event_pb2.RunEvent:
    return event_pb2.RunEvent(
        tool_call_started=event_pb2.ToolCallStarted(
            call_id=call_id, server=server, tool=tool, arguments_json=arguments
        )
    )


def progress(call_id: str, done: float, total: float | None, words: str = "") -> event_pb2.RunEvent:
    return event_pb2.RunEvent(
        tool_call_progress=event_pb2.ToolCallProgress(
            call_id=call_id, progress=done, total=total, message=words
        )
    )


def answer(
    call_id: str,
    result: str,
    outcome: event_pb2.ToolCallOutcome.ValueType = event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED,
    error: str = "",
) -> event_pb2.RunEvent:
    done = event_pb2.ToolCallCompleted(
        call_id=call_id, outcome=outcome, text=result, duration=Duration(nanos=41_000_000)
    )
    if error:
        done.error.message = error
    return event_pb2.RunEvent(tool_call_completed=done)


def succeeded(output: str = "") -> event_pb2.RunEvent:
    return finished(run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED, output=output))


def failed(words: str) -> event_pb2.RunEvent:
    error = run_pb2.RunError(reason=error_pb2.ERROR_REASON_LLM_UNAUTHENTICATED, message=words)
    return finished(run_pb2.RunResult(state=run_pb2.RUN_STATE_FAILED, error=error))


def cancelled(why: str) -> event_pb2.RunEvent:
    return finished(run_pb2.RunResult(state=run_pb2.RUN_STATE_CANCELLED, cancel_reason=why))


def finished(result: run_pb2.RunResult) -> event_pb2.RunEvent:
    result.turns, result.tool_calls = 2, 1
    result.usage.CopyFrom(usage_pb2.Usage(input_tokens=1212, output_tokens=38))
    result.cost.nano_usd = 55_000
    result.duration.CopyFrom(Duration(seconds=1, nanos=300_000_000))
    return event_pb2.RunEvent(run_finished=event_pb2.RunFinished(result=result))


def within(run_id: str, path: str, event: event_pb2.RunEvent) -> event_pb2.RunEvent:
    """The event as one of a run inside."""
    event.run_id, event.path = run_id, path
    return event


def child_started(agent: str, asked: str) -> event_pb2.RunEvent:
    target = component_pb2.ComponentRef(name=agent)
    return event_pb2.RunEvent(child_run_started=event_pb2.ChildRunStarted(target=target, message=asked))


def child_finished(end: event_pb2.RunEvent) -> event_pb2.RunEvent:
    result = end.run_finished.result
    return event_pb2.RunEvent(child_run_finished=event_pb2.ChildRunFinished(result=result))


def suspended(
    state: run_pb2.RunState.ValueType = run_pb2.RUN_STATE_WAITING, reason: str = ""
) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(run_suspended=event_pb2.RunSuspended(state=state, reason=reason))


def approval(input_id: str = "input-1", *, interrupted: bool = False) -> input_pb2.InputRequest:
    """A request for the approval of a tool call."""
    asked = input_pb2.ToolCallApproval(
        server="files",
        tool="delete",
        arguments_json='{"path": "a"}',
        arguments_sha256=f"sha-{input_id}",
        interrupted=interrupted,
    )
    return input_pb2.InputRequest(
        input_id=input_id,
        run_id=RUN_ID,
        root_run_id=RUN_ID,
        state=input_pb2.INPUT_STATE_PENDING,
        approval=asked,
    )


def question(text: str, schema_json: str = "", input_id: str = "input-2") -> input_pb2.InputRequest:
    return input_pb2.InputRequest(
        input_id=input_id,
        run_id=RUN_ID,
        root_run_id=RUN_ID,
        state=input_pb2.INPUT_STATE_PENDING,
        question=input_pb2.Question(text=text, schema_json=schema_json),
    )


def requested(request: input_pb2.InputRequest) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(input_requested=event_pb2.InputRequested(request=request))


def received(answer: input_pb2.InputAnswer, input_id: str = "input-1") -> event_pb2.RunEvent:
    return event_pb2.RunEvent(input_received=event_pb2.InputReceived(input_id=input_id, answer=answer))


def time_story() -> list[event_pb2.RunEvent]:
    """A run that asks one tool and answers."""
    return numbered(
        started(),
        claimed(),
        turn(1),
        text("I look "),
        text("at the clock."),
        message("I look at the clock.", "tool_calls"),
        call("1", "get_current_time", '{"timezone": "Asia/Tokyo"}'),
        answer("1", '{"datetime": "12:00"}'),
        turn(2),
        text("It is noon."),
        message("It is noon."),
        succeeded("It is noon."),
    )
