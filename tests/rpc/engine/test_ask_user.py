"""`ask_user`: a model asks a person, who answers with a value that fits, refuses, or says nothing."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from retinue.engine.v1.event_pb2 import TOOL_CALL_OUTCOME_CALL_FAILED, TOOL_CALL_OUTCOME_SUCCEEDED
from retinue.engine.v1.input_pb2 import Approval, Denial, InputAnswer
from retinue.errors import InputClosedError, InvalidArgumentError
from tests.suite import Suite, check_story, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

COLOUR = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}


async def asking(opened: OpenSuite, *questions: Any, **agent: Any) -> Suite:
    """A suite whose model asks all questions in one turn, and then tells the last answer."""
    calls = [
        {"name": "ask_user", "arguments": each, "id": f"c{number}"}
        for number, each in enumerate(questions, 1)
    ]
    return await opened(
        {
            "rules": [{"when": {"user_contains": "again"}, "text": "still here"}],
            "turns": [{"tool_calls": calls}, {"text": "you said {last_tool}", "chunk_size": 1000}],
        },
        agents={"b": {"ask_user": True, **agent}},
    )


async def asked(suite: Suite, **more: Any) -> tuple[run_pb2.Run, input_pb2.InputRequest]:
    run = await suite.client.runs.start("b", "hi", **more)
    (request,) = await suite.asked(run.run_id)
    return run, request


def told(events: list[event_pb2.RunEvent]) -> list[event_pb2.ToolCallCompleted]:
    return [event.tool_call_completed for event in events if event.HasField("tool_call_completed")]


async def test_a_question_is_answered_and_the_chat_goes_on(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "Which colour?"})
    run, request = await asked(suite, session_id="s")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert (request.run_id, request.call_id, request.path) == (run.run_id, "c1", "turn:1")
    assert request.question == input_pb2.Question(text="Which colour?")
    answered = await suite.client.inputs.provide(request, "bläulich")
    assert (answered.state, answered.answer.value_json) == (input_pb2.INPUT_STATE_ANSWERED, '"bläulich"')
    events = await suite.watched(run.run_id)
    check_story(events)
    (end,) = told(events)
    assert (end.call_id, end.outcome) == ("c1", TOOL_CALL_OUTCOME_SUCCEEDED)
    assert (end.text, end.structured_json) == ('"bläulich"', '"bläulich"')
    assert events[-1].run_finished.result.output == 'you said "bläulich"'
    assert (await suite.result("b", "again", session_id="s")).output == "still here"
    roles = [each["role"] for each in await suite.messages("s")]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    shown = {each["function"]["name"]: each["function"] for each in suite.model.requests[0]["tools"]}
    assert shown["ask_user"]["parameters"]["required"] == ["question"]


async def test_an_answer_fits_the_schema_or_is_refused_with_what_is_wrong(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "Which colour?", "answer_schema": COLOUR})
    run, request = await asked(suite)
    assert json.loads(request.question.schema_json) == COLOUR
    for value, place, what in (
        ({"colour": "green"}, "$.colour", '"green"'),
        ({}, "$", "'colour' is a required property"),
        ("red", "$", '"red"'),
        (None, "$", "null"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await suite.client.inputs.provide(request, value)
        (violation,) = refused.value.violations
        assert violation.field == "answer.value_json"
        assert f"- {place}: " in violation.description
        assert what in violation.description
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_WAITING
    assert await suite.asked(run.run_id) == [request]
    await suite.client.inputs.provide(request, {"colour": "red"})
    events = await suite.watched(run.run_id)
    check_story(events)
    assert json.loads(told(events)[0].structured_json) == {"colour": "red"}
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (InputAnswer(), "answer"),
        (InputAnswer(approve=Approval()), "answer"),
        (InputAnswer(deny=Denial()), "answer"),
        (InputAnswer(expired=input_pb2.Expiry()), "answer"),
        (InputAnswer(value_json=""), "answer.value_json"),
        (InputAnswer(value_json="blue"), "answer.value_json"),
        (InputAnswer(value_json="NaN"), "answer.value_json"),
        (InputAnswer(value_json="[" * 100_000), "answer.value_json"),
        (InputAnswer(value_json=json.dumps("x" * 2**18)), "answer.value_json"),
    ],
    ids=["none", "approve", "deny", "expired", "empty", "text", "NaN", "deep", "large"],
)
async def test_what_is_no_answer_to_a_question_is_refused(
    opened: OpenSuite, answer: InputAnswer, field: str
) -> None:
    suite = await asking(opened, {"question": "Which colour?"})
    run, request = await asked(suite)
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.inputs.answer(request, answer)
    (violation,) = refused.value.violations
    assert violation.field == field
    await suite.client.inputs.provide(request, 12345678901234567890)
    ended = await suite.ended(run.run_id)
    assert ended.result.output == "you said 12345678901234567890"


async def test_a_person_need_not_answer(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "Which colour?", "answer_schema": COLOUR})
    run, request = await asked(suite)
    await suite.client.inputs.refuse(request)
    with pytest.raises(InputClosedError):
        await suite.client.inputs.provide(request, {"colour": "red"})
    ended = await suite.ended(run.run_id)
    assert ended.result.output == "you said the person does not want to answer the question"
    check_story(await suite.watched(run.run_id))


async def test_a_question_is_given_up_when_its_time_is_over(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "Which colour?"})
    options = run_pb2.RunOptions()
    options.input_timeout.FromMilliseconds(300)
    run, request = await asked(suite, options=options)
    ended = await suite.ended(run.run_id)
    assert ended.result.output == "you said nobody answered the question in time"
    with pytest.raises(InputClosedError, match="its time is over"):
        await suite.client.inputs.provide(request, "red")
    check_story(await suite.watched(run.run_id))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("{not json", "the arguments are not valid JSON"),
        ("[1]", "the arguments are not a JSON object"),
        ({}, "the argument 'question' is missing"),
        ({"question": 5}, "the argument 'question' is missing, or not a text"),
        ({"question": "  "}, "the argument 'question' is missing"),
        ({"question": "Which?", "answer_schema": "red"}, "answer_schema cannot be used"),
        ({"question": "Which?", "answer_schema": {"type": "colour"}}, "answer_schema cannot be used"),
        ({"question": "Which?", "answer_schema": {"enum": ["x" * 2**17]}}, "answer_schema cannot be used"),
    ],
)
async def test_a_model_that_asks_wrongly_is_told_and_nobody_is_asked(
    opened: OpenSuite, arguments: Any, what: str
) -> None:
    suite = await asking(opened, arguments)
    events = await suite.story("b")
    check_story(events)
    (end,) = told(events)
    assert end.outcome == TOOL_CALL_OUTCOME_CALL_FAILED
    assert end.error.reason == pb.ERROR_REASON_INVALID_ARGUMENT
    assert what in end.text
    assert suite.model.requests[-1]["messages"][-1]["content"] == end.text
    assert await suite.asked(events[0].run_id, 0) == []
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_half_a_character_in_a_question_does_no_harm(opened: OpenSuite) -> None:
    suite = await asking(opened, '{"question": "Which \\ud83d\\ude00 or \\ud83d?"}')
    run, request = await asked(suite)
    assert request.question.text == "Which 😀 or \N{REPLACEMENT CHARACTER}?"
    await suite.client.inputs.answer(request, InputAnswer(value_json='"\\ud83d"'))
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    check_story(await suite.watched(run.run_id))


async def test_questions_of_one_turn_wait_side_by_side(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "One?"}, {"question": "Two?"})
    run = await suite.client.runs.start("b", "hi")
    requests = await suite.asked(run.run_id, 2)
    assert [each.question.text for each in requests] == ["One?", "Two?"]
    await suite.client.inputs.provide(requests[1], 2)
    assert await suite.asked(run.run_id, 1) == requests[:1]
    await suite.client.inputs.provide(requests[0], 1)
    assert (await suite.ended(run.run_id)).result.output == "you said 2"
    check_story(await suite.watched(run.run_id))


async def test_an_agent_that_may_not_ask_has_no_such_tool(opened: OpenSuite) -> None:
    suite = await asking(opened, {"question": "Which colour?"}, ask_user=False)
    result = await suite.result("b")
    assert "there is no tool 'ask_user'" in result.output
    assert "tools" not in suite.model.requests[0]


async def test_a_tool_runs_on_while_a_person_is_asked(opened: OpenSuite, tmp_path: Path) -> None:
    calls = [
        {"name": "tools__hold", "id": "c1"},
        {"name": "ask_user", "arguments": {"question": "Which colour?"}, "id": "c2"},
    ]
    suite = await opened(
        {"turns": [{"tool_calls": calls}, {"text": "done"}]},
        agents={"b": {"ask_user": True, "mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run, request = await asked(suite)
    await until(suite.notes, "the tool is called")
    await suite.client.inputs.provide(request, "red")
    seen = []
    async for event in suite.client.runs.watch(run.run_id):
        seen.append(event)
        if event.HasField("tool_call_completed"):
            # The answer is there although the tool has not come to its end.
            (tmp_path / "release").touch()
    check_story(seen)
    assert [each.call_id for each in told(seen)] == ["c2", "c1"]
    assert [each["content"] for each in suite.model.requests[-1]["messages"][-2:]] == ["released", '"red"']
