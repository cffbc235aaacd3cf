"""Linear workflows: steps one after the other, each with its own rules, as one durable run."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import InvalidArgumentError
from retinue.registry.v1 import workflow_pb2
from tests.suite import Suite, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

AGENTS = {
    "finder": {"system_prompt": "You are the finder."},
    "writer": {"system_prompt": "You are the writer."},
    "judge": {
        "system_prompt": "You are the judge.",
        "output_schema": {
            "type": "object",
            "properties": {"score": {"type": "number"}, "items": {"type": "array"}},
            "required": ["score"],
        },
    },
}


def answer(agent: str, text: str, **when: Any) -> dict[str, Any]:
    return {"when": {"system_contains": f"the {agent}", **when}, "text": text}


FOUND = answer("finder", "found it")
WROTE = answer("writer", "{last_user}, written")
BOTH = "{{ steps.find.output }} / {{ steps.write.output }}"
JUDGED = answer("judge", json.dumps({"score": 0.9, "items": ["a", "b"]}))


async def opened_with(opened: OpenSuite, *rules: dict[str, Any], steps: list[Any], **more: Any) -> Suite:
    workflow = {"steps": steps, **more.pop("workflow", {})}
    return await opened(
        {"rules": [*rules, FOUND, WROTE, JUDGED], "default": {"text": "?"}},
        agents=AGENTS,
        linear_workflows={"flow": workflow, **more.pop("others", {})},
        **more,
    )


def steps_of(events: list[event_pb2.RunEvent]) -> list[tuple[str, str]]:
    """What became of the steps, in order."""
    found = []
    for event in events:
        which = event.WhichOneof("event") or ""
        if which.startswith("step_"):
            found.append((which.removeprefix("step_"), getattr(event, which).step))
    return found


def completed(events: list[event_pb2.RunEvent]) -> dict[str, Any]:
    return {
        event.step_completed.step: json.loads(event.step_completed.output_json)
        for event in events
        if event.HasField("step_completed")
    }


async def test_each_step_sees_the_input_and_what_the_steps_before_it_gave(opened: OpenSuite) -> None:
    suite = await opened_with(
        opened,
        steps=[
            {"name": "find", "agent": "finder", "input": "Look for {{ input }}."},
            {"name": "write", "agent": "writer"},
            {
                "name": "judge",
                "agent": "judge",
                "input": "{{ steps.find.output }} / {{ steps.write.output }}",
            },
        ],
    )
    events = await suite.story("flow", "{{ gold }}\n")
    session_id = events[0].run_started.session_id
    assert re.fullmatch(r"workflow-[0-9a-f]{8}", session_id)
    said = [(each["role"], each["content"]) for each in await suite.messages(session_id)]
    assert said == [("user", "{{ gold }}\n"), ("assistant", events[-1].run_finished.result.output)]
    asked = [request["messages"][-1]["content"] for request in suite.model.requests]
    # What a person or a model wrote is never a template.
    assert asked == ["Look for {{ gold }}\n.", "found it", "found it / found it, written"]
    assert steps_of(events) == [
        (what, name) for name in ("find", "write", "judge") for what in ("started", "completed")
    ]
    assert completed(events) == {
        "find": "found it",
        "write": "found it, written",
        "judge": {"score": 0.9, "items": ["a", "b"]},
    }
    places = {event.path for event in events if event.HasField("child_run_started")}
    assert places == {f"step:{name}/try:1" for name in ("find", "write", "judge")}
    result = events[-1].run_finished.result
    assert (result.state, result.turns) == (run_pb2.RUN_STATE_SUCCEEDED, 3)
    assert json.loads(result.structured_json) == json.loads(result.output) == completed(events)["judge"]
    last = next(event.step_completed for event in reversed(events) if event.HasField("step_completed"))
    assert last.usage.input_tokens > 0
    assert last.duration.ToMicroseconds() > 0
    tree = [event for event in events if not event.WhichOneof("event").startswith("step_")]
    assert {event.run_id for event in tree} >= {events[0].run_id}


async def test_a_step_whose_condition_is_false_is_left_out_and_says_why(opened: OpenSuite) -> None:
    suite = await opened_with(
        opened,
        steps=[
            {"name": "judge", "agent": "judge", "input": "{{ input }}"},
            {"name": "again", "agent": "finder", "condition": "steps.judge.output.score < 0.5"},
            {"name": "write", "agent": "writer", "condition": "size(steps.judge.output.items) == 2"},
        ],
        workflow={"output": "{'score': steps.judge.output.score, 'again': steps.again.state}"},
    )
    events = await suite.story("flow")
    assert ("skipped", "again") in steps_of(events)
    skipped = next(event.step_skipped for event in events if event.HasField("step_skipped"))
    assert "steps.judge.output.score < 0.5" in skipped.reason
    assert json.loads(events[-1].run_finished.result.output) == {"score": 0.9, "again": "skipped"}


@pytest.mark.parametrize(
    ("step", "field", "told"),
    [
        ({"condition": "steps.find.output.score > 1"}, "condition", "found it"),
        ({"condition": "input"}, "condition", "must be true or false"),
        ({"input": "{{ steps.find.output.nothing.more }}"}, "input", "nothing"),
        ({"output": "result.structured.score"}, "output", "score"),
    ],
)
async def test_what_cannot_be_worked_out_fails_the_step_with_the_expression_and_the_values(
    opened: OpenSuite, step: dict[str, Any], field: str, told: str
) -> None:
    steps = [{"name": "find", "agent": "finder"}, {"name": "next", "agent": "writer", **step}]
    suite = await opened_with(opened, steps=steps)
    events = await suite.story("flow")
    error = events[-1].run_finished.result.error
    assert error.reason == pb.ERROR_REASON_EXPRESSION_FAILED
    assert (error.metadata["step"], error.metadata["field"]) == ("next", field)
    assert error.metadata["expression"] in error.message
    assert told in error.message
    assert steps_of(events)[-1] == ("failed", "next")
    assert completed(events) == {"find": "found it"}


async def test_a_step_is_tried_again_where_that_may_help_and_says_when(opened: OpenSuite) -> None:
    broken = {"when": {"system_contains": "the finder"}, "times": 2, "error": {"status": 503}}
    retry = {"attempts": 3, "backoff": "20ms"}
    suite = await opened_with(opened, broken, steps=[{"name": "find", "agent": "finder", "retry": retry}])
    events = await suite.story("flow")
    assert steps_of(events) == [
        *[("started", "find"), ("retrying", "find")] * 2,
        *[("started", "find"), ("completed", "find")],
    ]
    tries = [event.step_retrying for event in events if event.HasField("step_retrying")]
    assert [each.error.reason for each in tries] == [pb.ERROR_REASON_LLM_UNAVAILABLE] * 2
    assert all(0.01 <= each.delay.ToMicroseconds() / 1e6 * (1 / each.attempt) <= 0.02 for each in tries)
    last = next(event.step_completed for event in events if event.HasField("step_completed"))
    assert last.attempts == 3


async def test_only_the_errors_that_it_names_are_tried_again(opened: OpenSuite) -> None:
    broken = {"when": {"system_contains": "the finder"}, "times": 1, "error": {"status": 503}}
    retry = {"attempts": 3, "backoff": "1ms", "errors": ["LLM_TIMEOUT"]}
    suite = await opened_with(opened, broken, steps=[{"name": "find", "agent": "finder", "retry": retry}])
    result = await suite.result("flow")
    assert (result.state, result.error.reason) == (
        run_pb2.RUN_STATE_FAILED,
        pb.ERROR_REASON_LLM_UNAVAILABLE,
    )
    assert "step find failed" in result.error.message


@pytest.mark.parametrize("policy", ["fail", "continue", "fallback"])
async def test_what_a_failed_step_does_to_the_workflow_is_its_own_to_say(
    opened: OpenSuite, policy: str
) -> None:
    broken = {"when": {"system_contains": "the finder"}, "error": {"status": 400}}
    find = {"name": "find", "agent": "finder", "on_error": policy}
    if policy == "fallback":
        find["fallback"] = {"agent": "judge", "input": "in place of it: {{ input }}"}
    steps = [find, {"name": "write", "agent": "writer", "input": "got {{ steps.find.output }}"}]
    suite = await opened_with(opened, broken, steps=steps)
    events = await suite.story("flow")
    result = events[-1].run_finished.result
    failed = next(event.step_failed for event in events if event.HasField("step_failed"))
    assert failed.error.reason == pb.ERROR_REASON_LLM_INVALID_REQUEST
    wanted = workflow_pb2.StepErrorPolicy.Value(f"STEP_ERROR_POLICY_{policy.upper()}")
    assert failed.policy == wanted
    if policy == "fail":
        assert result.state == run_pb2.RUN_STATE_FAILED
        assert ("started", "write") not in steps_of(events)
    else:
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED
        found = (
            "got , written" if policy == "continue" else 'got {"score": 0.9, "items": ["a", "b"]}, written'
        )
        assert result.output == found


async def test_a_try_that_takes_too_long_ends_with_all_that_is_in_it(opened: OpenSuite) -> None:
    hangs = {"when": {"system_contains": "the finder"}, "hang": True}
    find = {"name": "find", "agent": "finder", "timeout": "200ms", "on_error": "continue"}
    suite = await opened_with(opened, hangs, steps=[find, {"name": "write", "agent": "writer", "input": "x"}])
    events = await suite.story("flow")
    failed = next(event.step_failed for event in events if event.HasField("step_failed"))
    assert failed.error.reason == pb.ERROR_REASON_STEP_TIMEOUT
    child = next(event.child_run_finished for event in events if event.HasField("child_run_finished"))
    assert child.result.state == run_pb2.RUN_STATE_CANCELLED
    assert events[-1].run_finished.result.output == "x, written"
    await until(lambda: len(suite.model.broken) == 1, "its request to the model ends")


async def test_a_tool_is_a_step_and_gets_values_as_they_are(opened: OpenSuite, tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    suite = await opened_with(
        opened,
        steps=[
            {
                "name": "count",
                "tool": {
                    "server": "tools",
                    "tool": "count",
                    "arguments": {"n": "{{ input.n }}", "note": "n is {{ input.n }}", "deep": [{"x": True}]},
                },
            },
            {"name": "write", "agent": "writer"},
        ],
        workflow={"input_schema": schema},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    events = await suite.story("flow", json.dumps({"n": 7}))
    started = next(event.tool_call_started for event in events if event.HasField("tool_call_started"))
    assert json.loads(started.arguments_json) == {"n": 7, "note": "n is 7", "deep": [{"x": True}]}
    assert started.idempotency_key == f"{events[0].run_id}:step:count/try:1"
    result = events[-1].run_finished.result
    assert (result.state, result.tool_calls) == (run_pb2.RUN_STATE_SUCCEEDED, 1)
    assert len(suite.notes()) == 1
    with pytest.raises(InvalidArgumentError, match="does not fit its input_schema"):
        await suite.client.runs.start("flow", "seven")


async def test_a_workflow_is_a_step_of_another_one(opened: OpenSuite) -> None:
    inner = {"steps": [{"name": "find", "agent": "finder"}], "output": "[steps.find.output]"}
    suite = await opened_with(
        opened,
        steps=[{"name": "dig", "linear_workflow": "inner"}, {"name": "write", "agent": "writer"}],
        others={"inner": inner},
    )
    events = await suite.story("flow")
    assert completed(events)["dig"] == ["found it"]
    assert events[-1].run_finished.result.output == '["found it"], written'
    places = [event.path for event in events if event.HasField("child_run_started")]
    assert places == ["step:dig/try:1", "step:dig/try:1/step:find/try:1", "step:write/try:1"]


async def test_a_workflow_is_a_tool_of_an_agent(opened: OpenSuite) -> None:
    call = {"tool_calls": [{"name": "flow", "arguments": {"message": "gold"}, "id": "c1"}]}
    boss = [
        {"when": {"system_contains": "the boss", "user_contains": "go"}, "times": 1, **call},
        answer("boss", "told: {last_tool}"),
    ]
    suite = await opened(
        {"rules": [*boss, FOUND, WROTE], "default": {"text": "?"}},
        agents={
            **AGENTS,
            "boss": {
                "system_prompt": "You are the boss.",
                "linear_workflows": ["flow"],
                "budget": {"max_turns": 4},
            },
        },
        linear_workflows={
            "flow": {
                "description": "Finds and writes.",
                "steps": [{"name": "find", "agent": "finder"}, {"name": "write", "agent": "writer"}],
            }
        },
    )
    events = await suite.story("boss", "go")
    assert events[-1].run_finished.result.output == "told: found it, written"
    assert events[-1].run_finished.result.turns == 4
    shown = suite.model.requests[0]["tools"][0]["function"]
    assert (shown["name"], shown["description"]) == ("flow", "Finds and writes.")
    places = [event.path for event in events if event.HasField("child_run_started")]
    assert places == [f"turn:1/call:1{rest}" for rest in ("", "/step:find/try:1", "/step:write/try:1")]


async def test_a_budget_counts_what_all_steps_use(opened: OpenSuite) -> None:
    steps = [{"name": f"s{number}", "agent": "finder", "input": "x"} for number in range(3)]
    suite = await opened_with(opened, steps=steps, workflow={"budget": {"max_turns": 2}})
    events = await suite.story("flow")
    result = events[-1].run_finished.result
    assert (result.stop_reason, result.turns) == (run_pb2.STOP_REASON_BUDGET, 2)
    assert set(completed(events)) == {"s0", "s1"}


async def test_a_failed_workflow_goes_on_from_the_failed_step_as_a_new_run(opened: OpenSuite) -> None:
    broken = {"when": {"system_contains": "the writer"}, "times": 1, "error": {"status": 400}}
    steps = [{"name": "find", "agent": "finder"}, {"name": "write", "agent": "writer"}]
    suite = await opened_with(opened, broken, steps=steps)
    first = (await suite.story("flow"))[-1]
    assert first.run_finished.result.state == run_pb2.RUN_STATE_FAILED
    again = await suite.client.runs.retry(first.run_id)
    events = await suite.watched(again.run_id)
    assert events[-1].run_finished.result.output == "found it, written"
    assert steps_of(events) == [("completed", "find"), ("started", "write"), ("completed", "write")]
    assert events[1].step_completed.restored
    asked = [request["messages"][0]["content"] for request in suite.model.requests]
    assert asked.count("You are the finder.") == 1


async def test_a_retry_that_fails_is_retried_from_where_it_failed(opened: OpenSuite) -> None:
    broken = {"when": {"system_contains": "the writer"}, "times": 1, "error": {"status": 400}}
    worse = {"when": {"system_contains": "the judge"}, "times": 1, "error": {"status": 400}}
    steps = [{"name": name, "agent": name} for name in ("finder", "writer", "judge")]
    suite = await opened_with(opened, broken, worse, steps=steps)
    first = (await suite.story("flow"))[-1]
    second = await suite.client.runs.retry(first.run_id)
    assert (await suite.watched(second.run_id))[-1].run_finished.result.state == run_pb2.RUN_STATE_FAILED
    third = await suite.client.runs.retry(second.run_id)
    events = await suite.watched(third.run_id)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert steps_of(events)[:3] == [("completed", "finder"), ("completed", "writer"), ("started", "judge")]
    asked = [request["messages"][0]["content"] for request in suite.model.requests]
    assert (asked.count("You are the finder."), asked.count("You are the writer.")) == (1, 2)


async def test_a_workflow_that_is_killed_in_a_step_goes_on_there_and_repeats_no_finished_one(
    tmp_path: Path,
) -> None:
    hangs = {"when": {"system_contains": "the writer"}, "times": 1, "hang": True}
    script = {"rules": [hangs, FOUND, WROTE], "default": {"text": "?"}}
    steps = [
        {"name": "count", "tool": {"server": "tools", "tool": "count", "arguments": {"n": 1}}},
        {"name": "find", "agent": "finder"},
        {"name": "write", "agent": "writer"},
    ]
    async with open_processes(
        tmp_path,
        script,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        linear_workflows={"flow": {"steps": steps}},
    ) as suite:
        run = await suite.client.runs.start("flow", "hi")
        await until(lambda: len(suite.model.requests) == 2, "the writer is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        assert events[-1].run_finished.result.output == "found it, written"
        assert list(completed(events)) == ["count", "find", "write"]
        assert len(suite.notes()) == 1
        asked = [request["messages"][0]["content"] for request in suite.model.requests]
        assert asked == ["You are the finder.", "You are the writer.", "You are the writer."]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))


async def test_a_workflow_waits_for_what_a_step_asks_a_person(opened: OpenSuite) -> None:
    ask = {"tool_calls": [{"name": "ask_user", "arguments": {"question": "May I?"}, "id": "q"}]}
    suite = await opened(
        {"turns": [ask], "default": {"text": "they said {last_tool}"}},
        agents={"asker": {"system_prompt": "You are the asker.", "ask_user": True}},
        linear_workflows={"flow": {"steps": [{"name": "ask", "agent": "asker"}]}},
    )
    run = await suite.client.runs.start("flow", "hi")
    (asked,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.inputs.provide(asked, "yes")
    ended = await suite.ended(run.run_id)
    assert (ended.state, ended.result.output) == (run_pb2.RUN_STATE_SUCCEEDED, 'they said "yes"')


async def test_options_that_are_of_no_use_to_a_workflow_are_refused(opened: OpenSuite) -> None:
    suite = await opened_with(opened, steps=[{"name": "find", "agent": "finder"}])
    options = run_pb2.RunOptions(max_iterations=3)
    with pytest.raises(InvalidArgumentError) as caught:
        await suite.client.runs.start("flow", "hi", options=options)
    assert [each.field for each in caught.value.violations] == ["run.options.max_iterations"]
