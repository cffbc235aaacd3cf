"""Sessions are found, labelled, deleted and exported, against a made-up engine on a real server."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retinue.engine.v1 import service_pb2, session_pb2
from retinue.errors import SessionBusyError
from retinue_cli.__main__ import main
from retinue_cli.failures import INTERRUPTED

from . import stories
from .engine import StoryTeller

_BOUND_S = 30.0


def test_sessions_are_found_by_their_labels(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sessions"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["SESSION", "MESSAGES", "LAST"]
    teller.session.labels.update(team="search", urgent="")
    assert main(["sessions", "--label", "team=search", "--label", "urgent="]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["SESSION", "MESSAGES", "LAST", "LABELS"]
    assert row.startswith(stories.SESSION_ID)
    assert row.endswith("team=search, urgent=")
    request = teller.commands[-1]
    assert isinstance(request, service_pb2.ListSessionsRequest)
    assert dict(request.labels) == {"team": "search", "urgent": ""}


def test_sessions_of_steps_are_found_by_their_base(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sessions", "--steps-of", "trip"]) == 0
    assert stories.SESSION_ID in capsys.readouterr().out
    request = teller.commands[-1]
    assert isinstance(request, service_pb2.ListSessionsRequest)
    assert request.base_session_id == "trip"


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (["team=lab", "urgent="], {"team": "lab", "old": "yes", "urgent": ""}),
        (["--remove", "old"], {"team": "search"}),
        (["team=lab", "--remove", "old"], {"team": "lab"}),
        (["urgent=", "--replace"], {"urgent": ""}),
        (["--replace"], {}),
    ],
)
def test_labels_are_added_to_those_that_are_there_unless_said_otherwise(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], given: list[str], labels: dict[str, str]
) -> None:
    teller.session.labels.update(team="search", old="yes")
    assert main(["session", "label", "s-1", *given]) == 0
    request = teller.commands[-1]
    assert request == service_pb2.UpdateSessionRequest(namespace="default", session_id="s-1", labels=labels)
    shown = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    assert capsys.readouterr().out == f"{shown or 'no labels'}\n"


def test_without_labels_those_of_the_session_are_shown(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.session.labels.update(team="search")
    assert main(["session", "label", "s-1"]) == 0
    assert capsys.readouterr().out == "team=search\n"
    assert main(["session", "label", "s-1", "--remove", "tema"]) == 2
    assert capsys.readouterr().err == "error: session s-1 has no label 'tema'\n"
    assert teller.commands == []


def test_a_session_is_deleted_without_a_question_where_that_is_said(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["session", "delete", "s-1", "--yes"]) == 0
    assert capsys.readouterr().out == "s-1 is deleted, with 3 runs\n"
    assert teller.commands == [service_pb2.DeleteSessionRequest(namespace="default", session_id="s-1")]
    assert main(["session", "delete", "s-1", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"session_id": "s-1", "deleted_runs": 3}


@pytest.mark.parametrize(
    ("typed", "status", "deleted"), [(b"y\n", 0, True), (b"\n", 1, False), (b"\x03", INTERRUPTED, False)]
)
def test_a_person_is_asked_before_a_session_is_deleted(
    teller: StoryTeller, typed: bytes, status: int, *, deleted: bool
) -> None:
    teller.messages = [session_pb2.SessionMessage(position=1)]
    keyboard, screen = os.openpty()
    command = [sys.executable, "-m", "retinue_cli", "session", "delete", "s-1"]
    # In a session of its own with this terminal: Ctrl-C typed there reaches it.
    code = "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    code += "; os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command], stdin=screen, stdout=screen, stderr=screen
    )
    try:
        shown, end = b"", time.monotonic() + _BOUND_S
        while b"[y/N]" not in shown:
            assert time.monotonic() < end, f"only saw {shown!r}"
            shown += os.read(keyboard, 4096)
        assert b"Delete session s-1 with 1 message and all its runs?" in shown
        while process.poll() is None:
            # Python may miss a Ctrl-C that comes in the instant before it begins to read: press it again.
            assert time.monotonic() < end, "it goes on"
            os.write(keyboard, typed)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_BOUND_S if status != INTERRUPTED else _BOUND_S / 10)
        assert process.returncode == status
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)
        os.close(screen)
    assert bool(teller.commands) is deleted


def test_a_session_that_is_in_use_is_not_deleted(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.refusal = SessionBusyError("run r-1 of session s-1 has not ended", session_id="s-1")
    assert main(["session", "delete", "s-1", "--yes"]) == 1
    assert capsys.readouterr().err == "error: run r-1 of session s-1 has not ended\n"


def test_a_session_is_exported_as_json_lines(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    teller.messages = [session_pb2.SessionMessage(position=1, message_json='{"role": "user"}')]
    assert main(["session", "export", "s-1"]) == 0
    text = capsys.readouterr().out
    lines = [json.loads(line) for line in text.splitlines()]
    assert [list(line) for line in lines] == [["session"], ["message"], ["run"]]
    assert lines[1]["message"]["message_json"] == '{"role": "user"}'
    assert main(["session", "export", "s-1", "-o", "s-1.jsonl"]) == 0
    assert capsys.readouterr().out == "✓ wrote 3 lines to s-1.jsonl\n"
    written = [json.loads(line) for line in (tmp_path / "s-1.jsonl").read_text().splitlines()]
    assert written[:2] == lines[:2]
    assert [path.name for path in tmp_path.iterdir()] == ["s-1.jsonl"]


def test_an_export_that_fails_leaves_the_file_as_it_was(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("before")
    teller.refusal = SessionBusyError("no")
    assert main(["session", "export", "s-1", "-o", "kept"]) == 1
    assert capsys.readouterr().err == "error: no\n"
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
    assert main(["session", "export", "s-1", "-o", "no-folder/file"]) == 1
    assert capsys.readouterr().err.startswith("error: no-folder/file.")
