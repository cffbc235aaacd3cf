"""A run's events as people and programs read them."""

import json

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue_cli import events
from retinue_cli.events import RunPrinter
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
    assert run_pb2.RUN_STATE_SUCCEEDED == events.SUCCEEDED
    assert run_pb2.RUN_STATE_FAILED == events.FAILED
    assert run_pb2.RUN_STATE_CANCELLED == events.CANCELLED
    for name, number in run_pb2.RunState.items():
        if number:
            assert events.state_name(number) == name.removeprefix("RUN_STATE_").lower()
