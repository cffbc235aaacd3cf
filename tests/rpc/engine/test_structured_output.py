"""Answers by a schema: how the model is asked for them, told what is wrong, and what the result holds."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import InvalidArgumentError
from tests.suite import Suite, check_story, check_tree, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

TRIP = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WRONG = {"structured": {"city": "Rom", "days": "three"}}
RIGHT = {"structured": {"city": "Rom", "days": 3}}
RIGHT_JSON = '{"city":"Rom","days":3}'


def planner(**more: Any) -> dict[str, dict[str, Any]]:
    """An agent `p` whose answer is a trip."""
    return {"p": {"output_schema": TRIP, **more}}


def rejections(events: list[event_pb2.RunEvent]) -> list[str]:
    return [e.output_rejected.message for e in events if e.WhichOneof("event") == "output_rejected"]


def check_succeeded(result: run_pb2.RunResult, repairs: int = 0) -> None:
    assert (result.state, result.stop_reason) == (
        run_pb2.RUN_STATE_SUCCEEDED,
        run_pb2.STOP_REASON_COMPLETED,
    )
    assert (result.structured_json, result.repairs) == (RIGHT_JSON, repairs)


async def test_a_provider_that_takes_schemas_is_sent_the_schema(opened: OpenSuite) -> None:
    suite = await opened({"default": RIGHT}, agents=planner(system_prompt="Plan."))
    events = await suite.story("p")
    check_story(events)
    (request,) = suite.model.requests
    assert request["response_format"]["type"] == "json_schema"
    assert request["response_format"]["json_schema"]["schema"] == TRIP
    assert request["messages"][0] == {"role": "system", "content": "Plan."}
    check_succeeded(events[-1].run_finished.result)
    assert json.loads(events[-1].run_finished.result.output) == {"city": "Rom", "days": 3}


@pytest.mark.parametrize("prompt", ["Plan.", ""])
async def test_a_model_that_takes_none_is_told_the_schema_in_words(opened: OpenSuite, prompt: str) -> None:
    suite = await opened(
        {"turns": [WRONG, RIGHT]},
        llms={"plain": {"structured_output": "instruction"}},
        agents=planner(llm="plain", system_prompt=prompt),
    )
    events = await suite.story("p", "Rom", session_id="s")
    check_story(events)
    for request in suite.model.requests:
        assert "response_format" not in request
        system, first = request["messages"][:2]
        assert system["role"] == "system"
        assert system["content"].startswith(prompt)
        assert json.loads(system["content"].split("\n")[-1]) == TRIP
        assert first == {"role": "user", "content": "Rom"}
        assert [each["role"] for each in request["messages"]].count("system") == 1
    check_succeeded(events[-1].run_finished.result, repairs=1)
    # The instruction is the engine's, not the session's.
    assert [each["role"] for each in await suite.messages("s")] == ["user", "assistant", "user", "assistant"]


async def test_a_wrong_answer_is_rejected_with_what_is_wrong_and_made_right(opened: OpenSuite) -> None:
    suite = await opened({"turns": [{"text": "about three days"}, WRONG, RIGHT]}, agents=planner())
    events = await suite.story("p")
    check_story(events)
    not_json, not_integer = rejections(events)
    assert "not valid JSON" in not_json
    assert "$.days" in not_integer
    assert '"three"' in not_integer
    assert "integer" in not_integer
    paths = [event.path for event in events if event.WhichOneof("event") == "output_rejected"]
    assert paths == ["turn:1", "turn:2"]
    told = suite.model.requests[-1]["messages"]
    assert [each["role"] for each in told] == ["user", "assistant", "user", "assistant", "user"]
    assert (told[2]["content"], told[4]["content"]) == (not_json, not_integer)
    result = events[-1].run_finished.result
    check_succeeded(result, repairs=2)
    assert result.turns == 3


@pytest.mark.parametrize(
    ("agent", "option", "repairs"), [({}, None, 2), ({"max_repairs": 1}, None, 1), ({}, 0, 0)]
)
async def test_an_answer_that_stays_wrong_fails_the_run(
    opened: OpenSuite, agent: dict[str, int], option: int | None, repairs: int
) -> None:
    suite = await opened({"default": WRONG}, agents=planner(**agent))
    events = await suite.story("p", session_id="s", options=run_pb2.RunOptions(max_repairs=option))
    check_story(events)
    assert len(rejections(events)) == repairs
    result = events[-1].run_finished.result
    assert (result.state, result.stop_reason) == (
        run_pb2.RUN_STATE_FAILED,
        run_pb2.STOP_REASON_OUTPUT_INVALID,
    )
    assert result.error.reason == pb.ERROR_REASON_OUTPUT_INVALID
    assert dict(result.error.metadata) == {"max_repairs": str(repairs)}
    assert "$.days" in result.error.message
    assert (result.structured_json, result.repairs, result.turns) == ("", repairs, repairs + 1)
    assert json.loads(result.output) == WRONG["structured"]


async def test_only_the_last_word_is_held_against_the_schema(opened: OpenSuite, tmp_path: Path) -> None:
    script = {
        "turns": [
            {"text": "let me look", "tool_calls": [{"name": "tools__look"}]},
            WRONG,
            {"text": "sorry", "tool_calls": [{"name": "tools__look"}]},
            RIGHT,
        ]
    }
    suite = await opened(
        script, agents=planner(mcp_servers=["tools"]), mcp_servers={"tools": stdio_server(tmp_path)}
    )
    events = await suite.story("p")
    check_story(events)
    assert len(rejections(events)) == 1
    check_succeeded(events[-1].run_finished.result, repairs=1)
    assert len(suite.notes()) == 2


async def test_the_runs_schema_stands_over_the_agents(opened: OpenSuite) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    suite = await opened({"default": {"structured": [1, 2]}}, agents=planner())
    options = run_pb2.RunOptions(output_schema_json=json.dumps(schema))
    for agent in ("p", "a"):
        run = await suite.story(agent, options=options)
        assert suite.model.requests[-1]["response_format"]["json_schema"]["schema"] == schema
        assert run[-1].run_finished.result.structured_json == "[1,2]"
    plain = await suite.result()
    assert (plain.structured_json, plain.output) == ("", "[1, 2]")
    assert "response_format" not in suite.model.requests[-1]


@pytest.mark.parametrize(
    "schema", ["{", "7", '{"type": "no such type"}', '{"$ref": "https://example.com/schema"}', "x" * 70_000]
)
async def test_a_schema_that_cannot_be_used_is_refused_with_its_field(opened: OpenSuite, schema: str) -> None:
    suite = await opened()
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", options=run_pb2.RunOptions(output_schema_json=schema))
    assert {each.field for each in refused.value.violations} == {"run.options.output_schema_json"}
    assert [run async for run in suite.client.runs.list()] == []


async def test_numbers_and_letters_arrive_as_they_were(opened: OpenSuite) -> None:
    text = '```json\n{"n": 12345678901234567890123, "f": 1.0, "s": "Größe 𝄞 \\u00e9 \\n", "l": [1e3]}\n```'
    suite = await opened({"default": {"text": text, "chunk_size": 7}}, agents={"p": {"output_schema": {}}})
    result = await suite.result("p", options=run_pb2.RunOptions(output_schema_json='{"type": "object"}'))
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert '"n":12345678901234567890123,' in result.structured_json
    assert '"s":"Größe 𝄞 é \\n"' in result.structured_json
    assert json.loads(result.structured_json) == {
        "n": 12345678901234567890123,
        "f": 1.0,
        "s": "Größe 𝄞 é \n",
        "l": [1000.0],
    }
    assert result.output == text


async def test_an_empty_answer_is_told_before_the_schema_is(opened: OpenSuite) -> None:
    suite = await opened({"turns": [{"text": ""}, RIGHT]}, agents=planner())
    events = await suite.story("p")
    check_story(events)
    assert (kinds(events).count("stall_noticed"), rejections(events)) == (1, [])
    check_succeeded(events[-1].run_finished.result)


async def test_a_large_structured_answer_is_whole_in_the_last_message(opened: OpenSuite) -> None:
    big = ["x" * 600_000]
    script = {"default": {"structured": big, "chunk_size": 60_000}}
    suite = await opened(script, agents={"p": {"output_schema": {"type": "array"}}})
    events = await suite.story("p")
    check_story(events)
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    answer = next(event for event in events if event.WhichOneof("event") == "message_completed")
    assert json.loads(answer.message_completed.text) == big
    assert json.loads(result.structured_json or result.output) == big


async def test_an_agent_with_a_schema_gives_its_caller_structure(opened: OpenSuite) -> None:
    rules = [
        {
            "when": {"system_contains": "boss", "turn": 1},
            "tool_calls": [{"name": "p", "arguments": {"message": "go"}}],
        },
        {"when": {"system_contains": "boss"}, "text": "told: {last_tool}"},
        {"when": {"turn": 1}, **WRONG},
        {"when": {"turn": 2}, **RIGHT},
    ]
    suite = await opened(
        {"rules": rules}, agents=planner() | {"boss": {"system_prompt": "boss", "agents": ["p"]}}
    )
    events = await suite.story("boss")
    check_tree(events)
    (told,) = [e.tool_call_completed for e in events if e.WhichOneof("event") == "tool_call_completed"]
    assert (told.structured_json, told.text) == (RIGHT_JSON, RIGHT_JSON)
    child = next(event for event in events if event.WhichOneof("event") == "child_run_finished")
    check_succeeded(child.child_run_finished.result, repairs=1)
    result = events[-1].run_finished.result
    assert (result.structured_json, result.output) == ("", f"told: {RIGHT_JSON}")
    # A schema of the run is about the run's answer, not about those of the runs inside it.
    options = run_pb2.RunOptions(output_schema_json='{"type": "string"}', max_repairs=0)
    await suite.story("boss", options=options)
    asked = [each["response_format"]["json_schema"]["schema"] for each in suite.model.requests[-4:]]
    assert asked == [{"type": "string"}, TRIP, TRIP, {"type": "string"}]


async def test_a_rejected_answer_is_not_rejected_again_after_a_kill(tmp_path: Path) -> None:
    hang = {"when": {"turn": 2}, "times": 1, "hang": True}
    script = {"rules": [hang, {"when": {"turn": 1}, **WRONG}], "default": RIGHT}
    async with open_processes(tmp_path, script, agents=planner(max_repairs=1)) as suite:
        run = await suite.client.runs.start("p", "hi")
        await until(lambda: len(suite.model.requests) == 2, "the model is asked again")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        check_story(events)
        assert len(rejections(events)) == 1
        check_succeeded(events[-1].run_finished.result, repairs=1)
        assert [len(each["messages"]) for each in suite.model.requests] == [1, 3, 3]
