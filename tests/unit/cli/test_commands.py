"""What commands send, print and end with, against a made-up engine on a real server."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2, session_pb2
from retinue.errors import (
    ComponentNotFoundError,
    InvalidArgumentError,
    ServiceUnavailableError,
    UnauthenticatedError,
    Violation,
)
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller

_BOUND_S = 30.0


def test_run_shows_the_story_and_ends_with_zero(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    assert main(["run", "assistant", "what time is it?"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "→ time.get_current_time" in said.out
    assert "✓ succeeded" in said.out
    assert "\x1b" not in said.out
    assert teller.requests[0].target.name == "assistant"
    assert teller.requests[0].message == "what time is it?"
    assert not teller.requests[0].HasField("options") or teller.requests[0].options == run_pb2.RunOptions()


@pytest.mark.parametrize(
    ("end", "status"), [(stories.succeeded(), 0), (stories.failed("no"), 1), (stories.cancelled("stop"), 3)]
)
def test_the_exit_status_says_how_the_run_ended(teller: StoryTeller, end: object, status: int) -> None:
    teller.story = stories.numbered(stories.started(), end)  # type: ignore[arg-type]
    assert main(["run", "assistant", "hello"]) == status
    assert main(["watch", stories.RUN_ID]) == status
    assert main(["watch", stories.RUN_ID, "--after", "2"]) == status


def test_options_of_all_commands_may_stand_before_the_command(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.numbered(stories.succeeded())
    assert main(["--json", "--namespace", "lab", "run", "assistant", "hello"]) == 0
    assert json.loads(capsys.readouterr().out)["run_finished"]
    assert teller.requests[0].namespace == "lab"


def test_a_detached_run_prints_its_id_alone(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "assistant", "hello", "--detach"]) == 0
    assert capsys.readouterr().out == f"{stories.RUN_ID}\n"
    assert teller.watched_after == []


def test_a_message_may_come_from_stdin(
    teller: StoryTeller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teller.story = stories.numbered(stories.succeeded())
    (tmp_path / "message").write_text("two\nlines\n")
    with (tmp_path / "message").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["run", "assistant", "-"]) == 0
    assert teller.requests[0].message == "two\nlines\n"


def test_watch_goes_on_after_the_event_that_is_named(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    assert main(["watch", stories.RUN_ID, "--after", "9", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [int(line["sequence"]) for line in lines] == [10, 11, 12]
    assert teller.watched_after == [9]


def test_cancel_sends_its_reason(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cancel", stories.RUN_ID, "--reason", "too slow"]) == 0
    assert teller.cancelled == ["too slow"]
    assert "ends soon" in capsys.readouterr().out


def test_runs_sends_its_filters(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    given = "--state failed --state running --agent assistant --session s-1 --limit 5"
    assert main(["runs", *given.split(), "--json"]) == 0
    request = teller.listed[0]
    assert list(request.states) == [run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_RUNNING]
    assert (request.target_name, request.session_id, request.page_size) == ("assistant", "s-1", 5)
    assert request.root_run_id == ""
    assert json.loads(capsys.readouterr().out)["runs"][0]["run_id"] == stories.RUN_ID


def test_the_runs_inside_a_run_are_listed_by_its_tree(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.stored.root_run_id = "run-top"
    teller.stored.path = "turn:1/call:2"
    assert main(["runs", "--tree", stories.RUN_ID]) == 0
    assert teller.listed[0].root_run_id == "run-top"
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:5] == ["RUN", "STATE", "AGENT", "STARTED", "PLACE"]
    assert "  turn:1/call:2  " in row
    assert main(["runs", "--tree", "run-of-nobody"]) == 1
    assert "there is no run run-of-nobody" in capsys.readouterr().err


def test_a_list_of_runs_is_a_table_that_nothing_cuts_in_a_pipe(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.story = stories.time_story()
    assert main(["runs"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["RUN", "STATE", "AGENT", "STARTED", "TOOK", "TOKENS", "COST", "MESSAGE"]
    assert row.startswith(f"{stories.RUN_ID}  succeeded  assistant  just now  1.3 s  1,250   $0.000055")


def test_a_session_is_shown_as_it_was_said(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    said = [
        {"role": "user", "content": "what time?"},
        {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]},
        {"role": "tool", "content": [{"type": "text", "text": "noon"}]},
        {"role": "assistant", "content": "It is noon."},
    ]
    teller.messages = [
        session_pb2.SessionMessage(position=number, run_id=stories.RUN_ID, message_json=json.dumps(each))
        for number, each in enumerate(said, start=1)
    ]
    assert main(["sessions", "s-1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "user: what time?",
        "assistant: → clock {}",
        "tool: noon",
        "assistant: It is noon.",
    ]
    assert main(["sessions", "s-1", "--limit", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [each["message"]["content"] for each in answer["messages"]] == ["It is noon."]


@pytest.mark.parametrize(
    ("refusal", "shown"),
    [
        (
            ComponentNotFoundError("there is no agent 'asistant'", nearest="assistant"),
            "error: there is no agent 'asistant'; did you mean assistant?\n",
        ),
        (
            InvalidArgumentError("the run is wrong", violations=[Violation("run.message", "is too long")]),
            "error: the run is wrong\n  run.message: is too long\n",
        ),
        (
            ServiceUnavailableError("…; last error: Ssl handshake failed", service="engine", address="a:1"),
            (
                "error: the engine at a:1 cannot be called with TLS as it is set here: "
                "RETINUE_TLS_CA_FILE names the certificates to trust; "
                "without it RETINUE_TLS=true trusts the system's\n"
            ),
        ),
        (
            UnauthenticatedError("the token is wrong"),
            "error: the token is wrong: set RETINUE_TOKEN\n",
        ),
    ],
)
def test_a_refusal_is_a_clear_line_on_stderr(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], refusal: InvalidArgumentError, shown: str
) -> None:
    teller.refusal = refusal
    assert main(["run", "asistant", "hello"]) == 1
    assert capsys.readouterr() == ("", shown)


def test_a_refusal_under_json_is_json_on_stderr(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.refusal = InvalidArgumentError("wrong", violations=[Violation("run", "no")], limit=1)
    assert main(["run", "asistant", "hello", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert json.loads(said.err) == {
        "error": {
            "message": "wrong\n  run: no",
            "reason": "INVALID_ARGUMENT",
            "facts": {"limit": "1"},
            "violations": [{"field": "run", "description": "no"}],
        }
    }


@pytest.mark.parametrize(
    "command",
    [["run", "a", "b"], ["runs"], ["watch", "r"], ["cancel", "r"], ["sessions"], ["get"], ["tools"]],
)
def test_without_services_the_next_step_is_to_start_them(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    nowhere = "--engine 127.0.0.1:1 --registry 127.0.0.1:1 --mcp-host 127.0.0.1:1"
    assert main([*nowhere.split(), *command]) == 1
    err = capsys.readouterr().err
    assert "is not running at 127.0.0.1:1: start it with `retinue up`\n" in err
    assert err.count("\n") == 1


def test_ctrl_c_detaches_and_says_how_to_come_back(teller: StoryTeller) -> None:
    teller.story = stories.time_story()
    teller.pause_after = 5
    command = [sys.executable, "-m", "retinue_cli", "run", "assistant", "hello", "--namespace", "lab"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _read_until(process, b"at the clock.")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=_BOUND_S)
    assert process.returncode == 130
    assert err.decode().splitlines() == [
        f"Detached. {stories.RUN_ID} goes on.",
        f"  watch it:   retinue watch {stories.RUN_ID} --after 5 --namespace lab",
        f"  cancel it:  retinue cancel {stories.RUN_ID} --namespace lab",
    ]
    assert teller.cancelled == []


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(teller: StoryTeller) -> None:
    teller.story = stories.time_story()
    teller.pause_after = 2
    command = [sys.executable, "-m", "retinue_cli", "run", "assistant", "hello", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        teller.go_on.set()
        assert process.wait(_BOUND_S) == 1
        assert process.stderr.read() == b""


def _read_until(process: subprocess.Popen[bytes], wanted: bytes) -> bytes:
    assert process.stdout is not None
    seen, end = b"", time.monotonic() + _BOUND_S
    while wanted not in seen:
        ready, _, _ = select.select([process.stdout], [], [], end - time.monotonic())
        assert ready, f"only saw {seen!r}"
        data = os.read(process.stdout.fileno(), 4096)
        assert data, f"ended after {seen!r}"
        seen += data
    return seen
