"""Pausing, going on, trying again and answering, against a made-up engine on a real server."""

import json

import pytest

from retinue.engine.v1 import input_pb2, run_pb2, service_pb2
from retinue.errors import InputClosedError
from retinue_cli.__main__ import main

from . import stories
from .engine import StoryTeller


def test_pause_sends_its_reason_and_says_how_to_go_on(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pause", stories.RUN_ID, "--reason", "lunch", "--namespace", "lab"]) == 0
    (request,) = teller.commands
    assert request == service_pb2.PauseRunRequest(namespace="lab", run_id=stories.RUN_ID, reason="lunch")
    assert f"`retinue resume {stories.RUN_ID} --namespace lab` lets it go on" in capsys.readouterr().out
    assert main(["pause", stories.RUN_ID, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == stories.RUN_ID


def test_resume_lets_a_run_go_on(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", stories.RUN_ID]) == 0
    assert teller.commands == [service_pb2.ResumeRunRequest(namespace="default", run_id=stories.RUN_ID)]
    assert "goes on" in capsys.readouterr().out


def test_retry_prints_the_new_runs_id(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retry", "run-before", "--max-tokens", "9", "--llm", "gpt", "--request-id", "once"]) == 0
    assert capsys.readouterr().out == f"{stories.RUN_ID}\n"
    options = run_pb2.RunOptions(llm="gpt")
    options.budget.max_tokens = 9
    assert teller.commands == [
        service_pb2.RetryRunRequest(
            namespace="default", run_id="run-before", request_id="once", options=options
        )
    ]
    assert teller.watched_after == []


def test_retry_makes_a_request_id_of_its_own(teller: StoryTeller) -> None:
    assert main(["retry", "run-before"]) == 0
    (request,) = teller.commands
    assert isinstance(request, service_pb2.RetryRunRequest)
    assert request.request_id


@pytest.mark.parametrize(("end", "status"), [(stories.succeeded(), 0), (stories.failed("no"), 1)])
def test_retry_may_follow_the_new_run(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str], end: object, status: int
) -> None:
    teller.story = stories.numbered(stories.started(), end)  # type: ignore[arg-type]
    assert main(["retry", "run-before", "--watch"]) == status
    assert capsys.readouterr().out.startswith(f"{stories.RUN_ID} · assistant")


def test_what_runs_ask_is_listed(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inputs"]) == 0
    assert capsys.readouterr().out == "No run asks anything now\n"
    teller.inputs = [stories.approval(), stories.question("How old?")]
    teller.inputs[1].state = input_pb2.INPUT_STATE_ANSWERED
    teller.inputs[1].answer.value_json = "7"
    assert main(["inputs", stories.RUN_ID]) == 0
    _, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 1
    assert rows[0].startswith(f"{stories.RUN_ID}  input-1  pending")
    assert rows[0].rstrip().endswith('may files.delete be called? {"path": "a"}')
    assert main(["inputs", "--all"]) == 0
    assert capsys.readouterr().out.splitlines()[2].rstrip().endswith("How old? (answered: 7)")
    assert main(["inputs", "--json"]) == 0
    assert [each["input_id"] for each in json.loads(capsys.readouterr().out)["inputs"]] == ["input-1"]


def sent(teller: StoryTeller) -> service_pb2.AnswerInputRequest:
    (request,) = teller.commands
    assert isinstance(request, service_pb2.AnswerInputRequest)
    return request


def test_the_one_thing_that_a_run_asks_need_not_be_named(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.inputs = [stories.approval()]
    assert main(["approve", stories.RUN_ID]) == 0
    assert capsys.readouterr().out == "input-1 approved\n"
    assert sent(teller) == service_pb2.AnswerInputRequest(
        namespace="default",
        run_id=stories.RUN_ID,
        input_id="input-1",
        arguments_sha256="sha-input-1",
        answer=input_pb2.InputAnswer(approve=input_pb2.Approval()),
    )


def test_an_approval_may_change_the_arguments(teller: StoryTeller) -> None:
    teller.inputs = [stories.approval(), stories.approval("input-9")]
    assert main(["approve", stories.RUN_ID, "input-9", "--args", '{"path": "b"}']) == 0
    assert sent(teller).answer.approve.arguments_json == '{"path": "b"}'
    assert sent(teller).arguments_sha256 == "sha-input-9"


def test_a_denial_says_why(teller: StoryTeller, capsys: pytest.CaptureFixture[str]) -> None:
    teller.inputs = [stories.approval()]
    assert main(["deny", stories.RUN_ID, "--reason", "too risky"]) == 0
    assert sent(teller).answer.deny.reason == "too risky"
    assert capsys.readouterr().out == "input-1 denied: too risky\n"


def test_a_question_that_is_denied_is_refused(teller: StoryTeller) -> None:
    teller.inputs = [stories.question("How old?")]
    assert main(["deny", stories.RUN_ID, "--reason", "rude"]) == 2
    assert teller.commands == []
    assert main(["deny", stories.RUN_ID]) == 0
    assert sent(teller).answer.HasField("refuse")


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        ("", "blue", "blue"),
        ("", "7", 7),
        ("", '{"a": [1]}', {"a": [1]}),
        ('{"type": "string"}', "7", "7"),
        ('{"type": "string"}', '"seven"', "seven"),
        ('{"type": ["integer", "string"]}', "7", 7),
        ('{"type": ["integer", "string"]}', "seven", "seven"),
        ('{"type": "boolean"}', "true", True),
        ('{"enum": ["red", "blue"]}', "blue", "blue"),
        ("true", "blue", "blue"),
    ],
)
def test_an_answer_is_json_or_text_where_text_will_do(
    teller: StoryTeller, schema: str, typed: str, value: object
) -> None:
    teller.inputs = [stories.question("?", schema)]
    assert main(["answer", stories.RUN_ID, typed]) == 0
    assert json.loads(sent(teller).answer.value_json) == value


def test_a_question_may_be_named(teller: StoryTeller) -> None:
    teller.inputs = [stories.question("a?"), stories.question("b?", input_id="input-3")]
    assert main(["answer", stories.RUN_ID, "input-3", "blue"]) == 0
    assert sent(teller).input_id == "input-3"


@pytest.mark.parametrize(
    ("command", "inputs", "status", "shown"),
    [
        (["approve", stories.RUN_ID], [], 1, f"error: {stories.RUN_ID} asks nothing now: `retinue inputs`"),
        (
            ["approve", stories.RUN_ID],
            [stories.approval(), stories.question("How old?")],
            1,
            (
                f"error: {stories.RUN_ID} asks several things, name one:\n"
                '  input-1  pending  may files.delete be called? {"path": "a"}\n'
                "  input-2  pending  How old?\n"
            ),
        ),
        (
            ["approve", stories.RUN_ID, "input-7"],
            [stories.approval()],
            1,
            f"error: {stories.RUN_ID} does not ask input-7, but:\n  input-1  pending  may files.delete",
        ),
        (
            ["approve", stories.RUN_ID],
            [stories.question("How old?")],
            2,
            f"error: input-2 is a question: `retinue answer {stories.RUN_ID} input-2 VALUE`",
        ),
        (
            ["answer", stories.RUN_ID, "yes"],
            [stories.approval()],
            2,
            f"error: input-1 is a tool call: `retinue approve {stories.RUN_ID} input-1` or `retinue deny",
        ),
        (
            ["answer", stories.RUN_ID, "seven"],
            [stories.question("?", '{"type": "integer"}')],
            2,
            "error: the answer has to be JSON, of type integer",
        ),
        (["approve", stories.RUN_ID, "--args", "[]"], [], 2, "error: the arguments have to be a JSON object"),
        (["answer", stories.RUN_ID, "input-1", "a", "b"], [], 2, "error: give one answer, in quotes"),
    ],
)
def test_what_cannot_be_answered_so_says_what_can(
    teller: StoryTeller,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    inputs: list[input_pb2.InputRequest],
    status: int,
    shown: str,
) -> None:
    teller.inputs = inputs
    assert main(command) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(shown)
    assert teller.commands == []


def test_an_answer_that_came_too_late_says_so(
    teller: StoryTeller, capsys: pytest.CaptureFixture[str]
) -> None:
    teller.inputs = [stories.approval()]
    teller.inputs[0].state = input_pb2.INPUT_STATE_CLOSED
    teller.refused_answers = [InputClosedError("its time is over")]
    assert main(["approve", stories.RUN_ID, "input-1"]) == 1
    assert capsys.readouterr().err == "error: its time is over\n"
