"""People in the loop by the command line: asked, answered, paused, tried again; with the real services."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .cli_project import Project, Up, until

pytestmark = pytest.mark.xdist_group("cli_people")

AGENTS = """\
  clerk:
    description: Asks before it looks at the clock.
    llm: scripted
    mcp_servers: [time]
    ask_user: true
    tool_policies: [{server: time, approval: always}]
    system_prompt: "You work for {{ office }}."
    variables: {office: nobody}
  chief:
    description: Has a clerk.
    llm: scripted
    agents: [assistant]
"""

MODEL = """\
name: people
rules:
  - when: {user_contains: ask me, turn: 1}
    tool_calls:
      - name: ask_user
        arguments: {question: "How old?", answer_schema: {type: integer}}
  - when: {user_contains: fails first}
    times: 1
    error: {status: 401, message: the key is wrong}
  - when: {user_contains: look at}
    text: "I see {attachments}"
  - when: {user_contains: plan, response_format: json_schema}
    structured: {days: 3}
  - when: {last_role: tool}
    text: "It says {last_tool}"
  - when: {user_contains: delegate}
    tool_calls: [{name: assistant, arguments: {message: "hello there"}}]
  - when: {user_contains: time}
    tool_calls: [{name: time__get_current_time, arguments: {timezone: Asia/Tokyo}}]
default:
  text: "You said: {last_user}"
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("office"))
    with (project.folder / "retinue.yaml").open("a") as anchor:
        anchor.write(AGENTS)
    (project.folder / "model.yaml").write_text(MODEL)
    return project


@pytest.fixture(scope="module", autouse=True)
def up(project: Project) -> Iterator[Up]:
    with project.up() as up:
        yield up


def _waiting(project: Project, message: str, *options: str) -> str:
    """The id of a run that waits for an answer."""
    run_id: str = project.json("run", "clerk", message, "--detach", *options)["run_id"]
    until(lambda: project.json("inputs", run_id)["inputs"], "the run asks")
    until(lambda: _state(project, run_id) == "RUN_STATE_WAITING", "the run waits")
    return run_id


def _state(project: Project, run_id: str) -> Any:
    return project.json("show", run_id)["state"]


def test_an_approved_call_is_made_with_the_arguments_that_were_given(project: Project) -> None:
    run_id = _waiting(project, "what time is it?")
    listed = project.retinue("inputs", run_id).stdout
    assert 'may time.get_current_time be called? {"timezone": "Asia/Tokyo"}' in listed
    done = project.retinue("approve", run_id, "--args", '{"timezone": "Europe/Rome"}', alone=True)
    assert (done.returncode, done.stderr) == (0, "")
    told = project.retinue("watch", run_id)
    assert told.returncode == 0
    assert '\n{\n  "timezone": "Europe/Rome"' in told.stdout
    late = project.retinue("deny", run_id)
    assert late.returncode == 1
    assert f"{run_id} asks nothing now" in late.stderr


def test_a_denied_call_is_not_made_and_the_model_is_told_why(project: Project) -> None:
    run_id = _waiting(project, "what time is it?")
    assert "denied: not now" in project.retinue("deny", run_id, "--reason", "not now").stdout
    told = project.retinue("watch", run_id).stdout
    assert "denied" in told
    assert "not now" in told.splitlines()[-3]


def test_a_question_takes_the_answer_that_fits_it_alone(project: Project) -> None:
    run_id = _waiting(project, "ask me something")
    wrong = project.retinue("answer", run_id, "old")
    assert wrong.returncode == 2
    assert "of type integer" in wrong.stderr
    refused = project.retinue("answer", run_id, "1.5", alone=True)
    assert refused.returncode == 1
    assert "found 1.5" in refused.stderr
    other = project.retinue("approve", run_id)
    assert other.returncode == 2
    assert f"retinue answer {run_id}" in other.stderr
    assert project.retinue("answer", run_id, "41").returncode == 0
    again = project.json("inputs", run_id, "--all")["inputs"]
    assert again[0]["answer"] == {"value_json": "41"}


def test_a_person_at_the_terminal_is_asked_and_may_leave_it_open(project: Project) -> None:
    keyboard, terminal = os.openpty()
    try:
        with project.in_terminal(terminal, "run", "clerk", "what time is it?") as (run, screen):
            until(lambda: "approve? [y/N/edit]" in screen(keyboard), "the person is asked")
            run.interrupt()
            assert run.wait() == 130
            shown = screen(keyboard)
        assert "goes on." in shown
        run_id = project.json("runs", "--state", "waiting")["runs"][0]["run_id"]
        with project.in_terminal(terminal, "run", "clerk", "what time is it?") as (run, screen):
            until(lambda: "approve? [y/N/edit]" in screen(keyboard), "the person is asked")
            os.write(keyboard, b"y\n")
            assert run.wait() == 0
            assert "Asia/Tokyo" in screen(keyboard)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert project.retinue("cancel", run_id).returncode == 0
    assert project.retinue("watch", run_id).returncode == 3


def test_a_paused_run_stays_so_after_its_answer_until_it_is_resumed(project: Project) -> None:
    run_id = _waiting(project, "what time is it?")
    assert "retinue resume" in project.retinue("pause", run_id, "--reason", "lunch").stdout
    until(lambda: _state(project, run_id) == "RUN_STATE_PAUSED", "the run is paused")
    assert project.retinue("approve", run_id).returncode == 0
    assert f"{run_id} · clerk · paused" in project.retinue("show", run_id).stdout
    assert "goes on" in project.retinue("resume", run_id).stdout
    assert project.retinue("watch", run_id).returncode == 0
    ended = project.retinue("pause", run_id, alone=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


def test_a_run_that_failed_is_tried_again_from_where_it_stood(project: Project) -> None:
    failed = project.retinue("run", "assistant", "it fails first", "--session", "again-1")
    assert failed.returncode == 1
    first = failed.stdout.split(" · ")[0]
    done = project.retinue("retry", first, "--watch", "--max-turns", "3")
    assert done.returncode == 0, done.stderr
    assert f"goes on from {first}" in done.stdout
    second = project.json("runs", "--session", "again-1")["runs"][0]
    assert second["origin"]["run_id"] == first
    shown = project.retinue("show", second["run_id"]).stdout
    assert f"goes on from  {first} #" in shown
    assert "  budget       3 turns\n" in shown
    assert project.retinue("retry", second["run_id"]).returncode == 1


def test_report_and_trace_tell_of_a_run_and_the_runs_inside(project: Project) -> None:
    run_id = project.retinue("run", "chief", "delegate it").stdout.split(" · ")[0]
    report = project.retinue("report", run_id).stdout
    assert "1 run inside" in report
    lines = [json.loads(line) for line in project.retinue("trace", run_id).stdout.splitlines()]
    assert lines[0]["run_id"] == run_id
    assert [int(line["sequence"]) for line in lines[1:]] == list(range(1, len(lines)))
    (inside,) = project.json("runs", "--tree", run_id)["runs"]
    assert inside["parent_run_id"] == run_id
    assert "turn:1/call:1" in project.retinue("runs", "--tree", run_id).stdout
    shown = project.retinue("show", inside["run_id"]).stdout
    assert f"inside       {run_id} at turn:1/call:1" in shown
    own = [json.loads(line) for line in project.retinue("trace", inside["run_id"]).stdout.splitlines()]
    assert "child_run_started" in own[1]
    assert "child_run_finished" in own[-1]
    missing = project.retinue("report", "run-of-nobody", alone=True)
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)


def test_schema_files_and_variables_reach_the_model(project: Project, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("type: object\nproperties: {days: {type: integer}}\n")
    schema = ("--output-schema", str(tmp_path / "plan.yaml"))
    done = project.retinue("run", "assistant", "make a plan", "--quiet", *schema)
    assert done.stdout == '{"days":3}\n'
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    seen = project.retinue("run", "assistant", "look at this", "--file", str(tmp_path / "a.png"), "-q")
    assert seen.stdout == "I see image/png, 8 bytes\n"
    run_id = project.json("run", "clerk", "hi", "--var", "office=the mayor", "-d")["run_id"]
    assert "You work for the mayor." in project.retinue("show", run_id).stdout
    (tmp_path / "bad.json").write_text('{"type": "strnig"}')
    refused = project.retinue("run", "assistant", "x", "--output-schema", str(tmp_path / "bad.json"))
    assert refused.returncode == 1
    assert "output_schema_json" in refused.stderr


def test_a_busy_session_rejects_or_is_interrupted(project: Project) -> None:
    first = _waiting(project, "what time is it?", "--session", "busy-1")
    rejected = project.retinue("run", "clerk", "hi", "--session", "busy-1", "--busy", "reject")
    assert rejected.returncode == 1
    assert first in rejected.stderr
    expired = project.retinue("run", "clerk", "hi", "--session", "busy-1", "--queue-timeout", "100ms")
    assert expired.returncode == 1
    assert "✗ failed (timeout): " in expired.stdout
    done = project.retinue("run", "clerk", "hi", "--session", "busy-1", "--busy", "interrupt", "-q")
    assert done.stdout == "You said: hi\n"
    assert _state(project, first) == "RUN_STATE_CANCELLED"


def test_a_session_is_labelled_exported_and_deleted(project: Project, tmp_path: Path) -> None:
    chat = ("chat", "assistant", "--session", "kept-1", "--label", "by=chat", "--max-turns", "2")
    assert project.retinue(*chat, stdin="one\ntwo\n").returncode == 0
    assert project.json("runs", "--session", "kept-1")["runs"][0]["labels"] == {"by": "chat"}
    assert project.retinue("session", "label", "kept-1", "team=a", "old=").stdout == "old=, team=a\n"
    assert project.retinue("session", "label", "kept-1", "--remove", "old").stdout == "team=a\n"
    found = project.json("sessions", "--label", "team=a")["sessions"]
    assert [each["session_id"] for each in found] == ["kept-1"]
    file = tmp_path / "kept.jsonl"
    assert project.retinue("session", "export", "kept-1", "-o", str(file)).returncode == 0
    pieces = [next(iter(json.loads(line))) for line in file.read_text().splitlines()]
    assert pieces == ["session", *["message"] * 4, "run", "run"]
    assert "--yes" in project.retinue("session", "delete", "kept-1").stderr
    deleted = project.retinue("session", "delete", "kept-1", "--yes", alone=True)
    assert deleted.stdout == "kept-1 is deleted, with 2 runs\n"
    for command in (["sessions", "kept-1"], ["session", "export", "kept-1"], ["session", "label", "kept-1"]):
        gone = project.retinue(*command)
        assert (gone.returncode, gone.stdout, gone.stderr.count("\n")) == (1, "", 1)
