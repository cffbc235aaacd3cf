"""A run's events as people and programs read them."""

import json
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from retinue_cli import results
from retinue_cli.events import RunPrinter
from retinue_cli.events_calls import CallLines
from retinue_cli.events_steps import StepLines
from retinue_cli.output import Output

from . import stories


def shown(
    capsys: pytest.CaptureFixture[str],
    story: list[event_pb2.RunEvent],
    *,
    as_json: bool = False,
    full: bool = False,
    quiet: bool = False,
    brief: bool = False,
) -> str:
    printer = RunPrinter(Output(as_json=as_json), full=full, quiet=quiet, brief=brief)
    for event in story:
        printer.event(event)
    printer.end_line()
    return capsys.readouterr().out


def test_a_run_is_shown_with_its_text_its_calls_and_its_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, stories.time_story()).splitlines() == [
        "run-0123456789abcdef01234567 · assistant · session agent-1f2e3d4c",
        "I look at the clock.",
        '→ time.get_current_time {"timezone": "Asia/Tokyo"}',
        "← time.get_current_time 41 ms",
        '  {"datetime": "12:00"}',
        "It is noon.",
        "",
        "✓ succeeded · 2 turns · 1 tool call · tokens 1,212 in, 38 out · $0.000055 · 1.3 s",
    ]


def test_quiet_shows_the_models_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, stories.time_story(), quiet=True) == "I look at the clock.\nIt is noon.\n"


def test_quiet_does_not_hide_that_a_run_failed(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, stories.numbered(stories.started(), stories.failed("no key")), quiet=True)
    assert out.splitlines()[0] == "✗ failed: no key"


def test_in_a_chat_a_turn_has_no_heading(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, stories.time_story(), brief=True)
    assert out.startswith("I look at the clock.\n")
    assert out.endswith("It is noon.\n2 turns · 1 tool call · tokens 1,212 in, 38 out · $0.000055 · 1.3 s\n")


def test_json_is_one_protojson_event_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.time_story()
    lines = [json.loads(line) for line in shown(capsys, story, as_json=True).splitlines()]
    assert len(lines) == len(story)
    assert lines[0]["run_started"]["session_id"] == stories.SESSION_ID
    assert lines[-1]["run_finished"]["result"]["state"] == "RUN_STATE_SUCCEEDED"
    assert [int(line["sequence"]) for line in lines] == list(range(1, len(story) + 1))


def test_calls_side_by_side_are_told_apart_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.call("1", "slow"),
        stories.call("2", "fast"),
        stories.answer("2", "b"),
        stories.answer("1", "a"),
    )
    assert shown(capsys, story).splitlines() == [
        "→ time.slow {}",
        "→ time.fast {}",
        "← time.fast 41 ms",
        "  b",
        "← time.slow 41 ms",
        "  a",
    ]


def test_a_failed_call_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.call("1", "look"),
        stories.answer("1", "", event_pb2.TOOL_CALL_OUTCOME_CALL_FAILED, error="the server is gone"),
        stories.call("2", "look"),
        stories.answer("2", "no such zone", event_pb2.TOOL_CALL_OUTCOME_TOOL_ERROR),
    )
    assert shown(capsys, story).splitlines() == [
        "→ time.look {}",
        "✗ time.look 41 ms no answer",
        "  the server is gone",
        "→ time.look {}",
        "✗ time.look 41 ms the tool reports an error",
        "  no such zone",
    ]


def test_a_long_result_is_cut_unless_all_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(stories.call("1", "read"), stories.answer("1", "x" * 2000))
    short = shown(capsys, story).splitlines()
    assert short[-1] == "  … 1,400 characters more; --full shows all"
    assert "x" * 2000 in shown(capsys, story, full=True)


def test_progress_is_a_line_each_where_nothing_can_be_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.call("1", "copy"), stories.progress("1", 1, 4, "first"), stories.progress("1", 3, None)
    )
    assert shown(capsys, story).splitlines()[1:] == ["  time.copy 25% first", "  time.copy 3"]


def test_an_answer_that_did_not_stream_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(stories.turn(), stories.message("All at once."))
    assert shown(capsys, story) == "All at once.\n"


def test_an_answer_that_is_asked_for_again_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.started(),
        stories.claimed(),
        stories.turn(),
        stories.text("It is"),
        stories.claimed(),
        stories.discarded("it broke off"),
    )
    assert shown(capsys, story).splitlines()[1:] == [
        "It is",
        "(an engine has taken over the run)",
        "(the answer so far does not count and is asked for again: it broke off)",
    ]


def test_a_model_that_failed_says_why_and_who_is_asked_next(capsys: pytest.CaptureFixture[str]) -> None:
    failed = stories.discarded("the server failed")
    failed.message_discarded.error.message = "the server failed"
    failed.message_discarded.next_llm = "backup"
    failed.message_discarded.delay.FromMilliseconds(1500)
    out = shown(capsys, stories.numbered(stories.turn(), failed))
    assert "(the model failed; backup is asked in 1.5 s: the server failed)" in out


def test_an_answer_that_was_cut_off_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(stories.text("It i"), stories.message("It i", "length"))
    assert "most output tokens" in shown(capsys, story)


def test_a_cancelled_run_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, stories.numbered(stories.cancelled("enough")))
    assert "■ cancelled: enough · 2 turns" in out


CHILD = "run-child"
CALL = "turn:1/call:1"


def family_story() -> list[event_pb2.RunEvent]:
    """A run whose first call is answered by a run inside."""
    return stories.numbered(
        stories.started(),
        stories.turn(),
        stories.call("1", "helper", server=""),
        stories.within(CHILD, CALL, stories.child_started("helper", "find the time")),
        stories.within(CHILD, f"{CALL}/turn:1", stories.turn()),
        stories.within(CHILD, f"{CALL}/turn:1", stories.text("Let me ")),
        stories.text("(meanwhile)"),
        stories.within(CHILD, f"{CALL}/turn:1", stories.message("Let me\nsee.")),
        stories.within(CHILD, f"{CALL}/turn:1/call:1", stories.call("1", "now")),
        stories.within(CHILD, f"{CALL}/turn:1/call:1", stories.answer("1", "noon")),
        stories.within(CHILD, CALL, stories.child_finished(stories.succeeded())),
        stories.answer("1", "It is noon."),
        stories.succeeded(),
    )


BILL = "2 turns · 1 tool call · tokens 1,212 in, 38 out · $0.000055 · 1.3 s"


def test_what_happens_in_a_run_inside_stands_behind_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, family_story()).splitlines()[1:] == [
        "→ helper {}",
        f"{CALL} │ run-child · helper · find the time",
        "(meanwhile)",
        f"{CALL} │ Let me",
        f"{CALL} │ see.",
        f"{CALL} │ → time.now {{}}",
        f"{CALL} │ ← time.now 41 ms",
        f"{CALL} │   noon",
        f"{CALL} │ ✓ succeeded · {BILL}",
        "← helper 41 ms",
        "  It is noon.",
        "",
        f"✓ succeeded · {BILL}",
    ]


def test_the_end_of_a_run_inside_is_not_the_end_of_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    printer = RunPrinter(Output(as_json=True))
    story = family_story()
    for event in story[:-1]:
        printer.event(event)
    assert printer.result is None
    printer.event(story[-1])
    assert printer.result is not None


def test_who_joins_in_the_middle_sees_the_place_of_a_run_inside(capsys: pytest.CaptureFixture[str]) -> None:
    printer = RunPrinter(Output(as_json=False))
    printer.run_id = stories.RUN_ID
    for event in family_story()[7:10]:
        printer.event(event)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{CALL} │ Let me"
    assert all(line.startswith(f"{CALL} │ ") for line in lines)


def test_a_run_inside_that_is_watched_itself_is_shown_like_any_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printer = RunPrinter(Output(as_json=False))
    printer.run_id = CHILD
    for event in (event for event in family_story() if event.run_id == CHILD):
        printer.event(event)
    assert printer.result is not None
    assert capsys.readouterr().out.splitlines() == [
        "run-child · helper · find the time",
        "Let me ",
        "→ time.now {}",
        "← time.now 41 ms",
        "  noon",
        "",
        f"✓ succeeded · {BILL}",
    ]


def test_quiet_leaves_out_what_runs_inside_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, family_story(), quiet=True) == "(meanwhile)\n"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (stories.suspended(), "(the run waits for an answer)"),
        (
            stories.suspended(run_pb2.RUN_STATE_PAUSED, "lunch"),
            f"(the run is paused: lunch; `retinue resume {stories.RUN_ID}` lets it go on)",
        ),
        (
            event_pb2.RunEvent(
                context_trimmed=event_pb2.ContextTrimmed(
                    omitted_messages=1, tokens_before=9000, tokens_after=800
                )
            ),
            "(1 message left out from here on: about 800 tokens in place of 9,000)",
        ),
        (
            event_pb2.RunEvent(stall_noticed=event_pb2.StallNoticed(message="do\nsomething")),
            "(no headway; the model is told: do something)",
        ),
        (
            event_pb2.RunEvent(output_rejected=event_pb2.OutputRejected(message="age: no number")),
            "(the answer does not fit the output schema and is asked for again: age: no number)",
        ),
        (stories.requested(stories.approval()), '? may files.delete be called? {"path": "a"}'),
        (
            stories.requested(stories.approval(interrupted=True)),
            '? may files.delete be called again, though it may have happened? {"path": "a"}',
        ),
        (
            stories.requested(stories.question("How old?", '{"type": "integer"}')),
            '? How old?\n  as {"type": "integer"}',
        ),
        (stories.received(input_pb2.InputAnswer(approve=input_pb2.Approval())), "(approved)"),
        (
            stories.received(input_pb2.InputAnswer(approve=input_pb2.Approval(arguments_json="{}"))),
            "(approved with other arguments: {})",
        ),
        (stories.received(input_pb2.InputAnswer(deny=input_pb2.Denial(reason="no"))), "(denied: no)"),
        (stories.received(input_pb2.InputAnswer(value_json="7")), "(answered: 7)"),
        (stories.received(input_pb2.InputAnswer(refuse=input_pb2.Refusal())), "(refused)"),
        (stories.received(input_pb2.InputAnswer(expired=input_pb2.Expiry())), "(nobody answered in time)"),
    ],
)
def test_every_turn_of_a_story_has_its_words(
    capsys: pytest.CaptureFixture[str], event: event_pb2.RunEvent, line: str
) -> None:
    assert shown(capsys, stories.numbered(event)) == f"{line}\n"


def test_a_claim_after_waiting_is_no_takeover(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.started(), stories.claimed(), stories.turn(), stories.suspended(), stories.claimed()
    )
    assert shown(capsys, story).splitlines()[1:] == ["(the run waits for an answer)", "(the run goes on)"]


def test_a_run_that_goes_on_from_another_says_from_which(capsys: pytest.CaptureFixture[str]) -> None:
    begun = stories.started()
    begun.run_started.origin.run_id = "run-before"
    restored = event_pb2.RunEvent(
        conversation_restored=event_pb2.ConversationRestored(messages_json=["{}", "{}"])
    )
    lines = shown(capsys, stories.numbered(begun, restored, stories.claimed())).splitlines()
    assert lines[0].endswith(" · goes on from run-before")
    assert lines[1:] == ["(2 messages of the run before)"]


def test_what_a_model_thinks_is_shown_where_all_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    def thought(text: str) -> event_pb2.RunEvent:
        return event_pb2.RunEvent(reasoning_delta=event_pb2.ReasoningDelta(text=text))

    story = stories.numbered(stories.turn(), thought("Well, "), thought("noon."), stories.text("Noon."))
    assert shown(capsys, story) == "Noon.\n"
    assert shown(capsys, story, full=True).splitlines() == ["(thinks) Well, noon.", "Noon."]
    assert shown(capsys, story, full=True, quiet=True) == "Noon.\n"


def test_files_of_a_result_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    answer = stories.answer("1", "done")
    answer.tool_call_completed.attachments.add(mime_type="image/png", name="chart", size_bytes=1200)
    out = shown(capsys, stories.numbered(stories.call("1", "draw"), answer))
    assert out.splitlines()[-1] == "  [image/png chart, 1,200 bytes]"


def test_every_kind_of_event_has_its_words_or_is_known_to_need_none() -> None:
    kinds = {field.name for field in event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    own = {name.removeprefix("_show_") for name in vars(RunPrinter) if name.startswith("_show_")}
    steps = {name for name in vars(StepLines) if not name.startswith("_")}
    calls = {name for name in vars(CallLines) if not name.startswith("_")}
    assert kinds == (own - {"end", "structured"}) | steps | calls


def test_what_code_does_and_writes_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def event(**what: Any) -> event_pb2.RunEvent:
        return event_pb2.RunEvent(**what)

    look = event_pb2.CallStarted(key="s/try:1/look")
    look.call.tool.tool = "look"
    call = "call:s%2Ftry:1%2Fasked"
    asked = event_pb2.ChildRunStarted(message="who?")
    asked.target.name = "finder"
    failed = event_pb2.CallFailed(key="b")
    failed.error.message = "out of order"
    story = stories.numbered(
        event(worker_started=event_pb2.WorkerStarted(number=2)),
        event(call_started=event_pb2.CallStarted(key="a")),
        event(call_completed=event_pb2.CallCompleted(key="a", output_json='"gold"')),
        event(call_started=look),
        event(call_completed=event_pb2.CallCompleted(key="s/try:1/look", output_json='"seen"')),
        event(run_id="run-in", path=call, child_run_started=asked),
        event(call_failed=failed),
        event(worker_output=event_pb2.WorkerOutput(stream=1, text="one\ntwo\x1b[31m\n")),
        event(worker_output=event_pb2.WorkerOutput(stream=2, text="oh")),
        event(custom_event=event_pb2.CustomEvent(name="found", data_json="[1]")),
        event(state_changed=event_pb2.StateChanged(name="n", value_json="2")),
        event(worker_ended=event_pb2.WorkerEnded(outcome=3, dropped_bytes=7)),
    )
    lines = [line.rstrip() for line in shown(capsys, story).splitlines()]
    assert lines == [
        "(the code runs again, the 2. time)",
        "▸ a",
        "◂ a 0 ms",
        "  gold",
        "▸ s/try:1/look",
        "◂ s/try:1/look 0 ms",
        "call:s/try:1/asked │ run-in · finder · who?",
        "✗ b 0 ms",
        "  out of order",
        "| one",
        "| two",
        "! oh",
        "• found [1]",
        "(n = 2)",
        "(7 bytes that it wrote are not kept)",
        "(its process ends until the run goes on)",
    ]


def test_text_of_models_and_tools_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(
        stories.text("a\x1b[2Jb"),
        stories.call("1", "x\x1b[31m", '"\x1b]0;t\x07"'),
        stories.answer("1", "\x1b[31mc"),
    )
    assert "\x1b" not in shown(capsys, story)


def test_brackets_are_text_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    story = stories.numbered(stories.text("[red]x[/red] :smile:"), stories.call("1", "[bold]", '["a"]'))
    out = shown(capsys, story)
    assert "[red]x[/red] :smile:" in out
    assert '→ time.[bold] ["a"]' in out


def test_the_numbers_of_states_are_those_of_the_proto() -> None:
    assert run_pb2.RUN_STATE_PAUSED == results.PAUSED
    assert run_pb2.RUN_STATE_SUCCEEDED == results.SUCCEEDED
    assert run_pb2.RUN_STATE_FAILED == results.FAILED
    assert run_pb2.RUN_STATE_CANCELLED == results.CANCELLED
    for name, number in run_pb2.RunState.items():
        if number:
            assert results.state_name(number) == name.removeprefix("RUN_STATE_").lower()
