"""What a run asks reaches the person: right in the terminal, or as the commands that answer it."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from retinue.engine.v1 import event_pb2, input_pb2, service_pb2
from retinue.errors import InputClosedError, InvalidArgumentError
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller

_BOUND_S = 30.0


def asking(teller: StoryTeller, request: input_pb2.InputRequest, *after: event_pb2.RunEvent) -> None:
    """A story that asks and waits for the answer."""
    teller.inputs = [request]
    teller.story = stories.numbered(
        stories.started(), stories.requested(request), stories.suspended(), *after, stories.succeeded()
    )
    teller.pause_after = 3


class Terminal:
    """A command with a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.process = process
        self._keyboard = keyboard
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def see(self, wanted: str, times: int = 1) -> None:
        end = time.monotonic() + _BOUND_S
        while self.screen.count(wanted) < times:
            ready, _, _ = select.select([self._keyboard], [], [], end - time.monotonic())
            assert ready, f"only saw {self.screen!r}"
            self.screen += os.read(self._keyboard, 4096).decode()


@contextmanager
def terminal(*command: str) -> Iterator[Terminal]:
    keyboard, screen = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "retinue_cli", *command], stdin=screen, stdout=screen, stderr=screen
    )
    try:
        yield Terminal(process, keyboard)
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)
        os.close(screen)


def answer_of(teller: StoryTeller) -> input_pb2.InputAnswer:
    (request,) = teller.commands
    assert isinstance(request, service_pb2.AnswerInputRequest)
    return request.answer


DECIDE, EDIT = "approve? [y/N/edit] ", "arguments: "


@pytest.mark.parametrize(
    ("steps", "right"),
    [
        ([(DECIDE, "y")], lambda answer: answer.HasField("approve") and not answer.approve.arguments_json),
        ([(DECIDE, "")], lambda answer: answer.HasField("deny") and not answer.deny.reason),
        ([(DECIDE, "n not today")], lambda answer: answer.deny.reason == "not today"),
        (
            [(DECIDE, "edit"), (EDIT, '{"path": "b"}')],
            lambda answer: answer.approve.arguments_json == '{"path": "b"}',
        ),
        (
            [(DECIDE, "edit"), (EDIT, "b"), (DECIDE, "perhaps"), (DECIDE, "YES")],
            lambda answer: answer.HasField("approve"),
        ),
    ],
)
def test_a_tool_call_is_decided_in_the_terminal(
    teller: StoryTeller,
    steps: list[tuple[str, str]],
    right: Callable[[input_pb2.InputAnswer], bool],
) -> None:
    asking(teller, stories.approval())
    with terminal("run", "assistant", "hello") as shell:
        seen: list[str] = []
        for prompt, typed in steps:
            seen.append(prompt)
            shell.see(prompt, seen.count(prompt))
            shell.type(f"{typed}\n")
        shell.see("✓ succeeded")
        assert shell.process.wait(_BOUND_S) == 0
    assert right(answer_of(teller))


def test_a_question_is_asked_until_the_answer_fits(teller: StoryTeller) -> None:
    asking(teller, stories.question("How old?", '{"type": "integer"}'))
    teller.refused_answers = [InvalidArgumentError("999 is more than 150")]
    with terminal("run", "assistant", "hello") as shell:
        shell.see("How old?")
        shell.see("answer: ")
        shell.type("seven\n")
        shell.see("has to be JSON, of type integer")
        shell.see("answer: ", 2)
        shell.type("999\n")
        shell.see("999 is more than 150")
        shell.see("answer: ", 3)
        shell.type("7\n")
        shell.see("✓ succeeded")
        assert shell.process.wait(_BOUND_S) == 0
    last = teller.commands[-1]
    assert isinstance(last, service_pb2.AnswerInputRequest)
    assert last.answer.value_json == "7"


def test_who_gives_no_answer_in_the_terminal_is_told_the_command(teller: StoryTeller) -> None:
    asking(teller, stories.approval())
    with terminal("run", "assistant", "hello") as shell:
        shell.see("approve? [y/N/edit] ")
        shell.type("\x04")
        shell.see(f"retinue deny {stories.RUN_ID} input-1 --reason TEXT")
        assert teller.commands == []
        teller.go_on.set()
        shell.see("✓ succeeded")
        assert shell.process.wait(_BOUND_S) == 0


def test_an_answer_from_elsewhere_ends_the_question_and_the_next_one_is_asked(teller: StoryTeller) -> None:
    approved = stories.received(input_pb2.InputAnswer(approve=input_pb2.Approval()))
    asking(
        teller, stories.approval(), stories.claimed(), approved, stories.requested(stories.question("Why?"))
    )
    with terminal("run", "assistant", "hello") as shell:
        shell.see("approve? [y/N/edit] ")
        teller.inputs.append(stories.question("Why?"))
        teller.pause_after = 6
        teller.go_on.set()
        shell.see("(approved)")
        shell.see("answer: ")
        shell.type("because\n")
        shell.see("✓ succeeded")
        assert shell.process.wait(_BOUND_S) == 0
    assert answer_of(teller).value_json == '"because"'


def test_who_answers_too_late_is_not_bothered(teller: StoryTeller) -> None:
    asking(teller, stories.approval())
    teller.refused_answers = [InputClosedError("it was answered")]
    with terminal("run", "assistant", "hello") as shell:
        shell.see("approve? [y/N/edit] ")
        shell.type("y\n")
        assert teller.answered.wait(_BOUND_S)
        teller.go_on.set()
        shell.see("✓ succeeded")
        assert shell.process.wait(_BOUND_S) == 0
    assert "it was answered" not in shell.screen


def test_ctrl_c_at_a_question_detaches_and_answers_nothing(teller: StoryTeller) -> None:
    asking(teller, stories.approval())
    with terminal("run", "assistant", "hello") as shell:
        shell.see("approve? [y/N/edit] ")
        shell.process.send_signal(signal.SIGINT)
        shell.see("Detached.")
        assert shell.process.wait(_BOUND_S) == 130
    assert teller.commands == []


@pytest.mark.parametrize("extra", [[], ["--json"], ["--quiet"]])
def test_without_a_terminal_the_commands_are_said_on_stderr(
    teller: StoryTeller, capfd: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    asking(teller, stories.approval())
    command = [sys.executable, "-m", "retinue_cli", "run", "assistant", "hello", "--namespace", "lab", *extra]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = [process.stderr.readline().decode().rstrip() for _ in range(3)]
        teller.go_on.set()
        assert process.wait(_BOUND_S) == 0
    assert said == [
        f'{stories.RUN_ID} asks: may files.delete be called? {{"path": "a"}}',
        f"  retinue approve {stories.RUN_ID} input-1 --namespace lab",
        f"  retinue deny {stories.RUN_ID} input-1 --reason TEXT --namespace lab",
    ]


def test_an_old_story_asks_nobody(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    request = stories.question("How old?")
    asking(teller, request)
    teller.inputs[0].state = input_pb2.INPUT_STATE_CLOSED
    teller.go_on.set()
    assert main(["watch", stories.RUN_ID]) == 0
    said = capsys.readouterr()
    assert "? How old?" in said.out
    assert said.err == ""
