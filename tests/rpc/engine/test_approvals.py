"""Tool calls that wait for a person: which do, what can be answered, and what the model is told then."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from retinue.engine.v1.event_pb2 import TOOL_CALL_OUTCOME_DENIED, TOOL_CALL_OUTCOME_SUCCEEDED
from retinue.engine.v1.input_pb2 import Approval, Denial, Expiry, InputAnswer
from retinue.errors import (
    InputClosedError,
    InputMismatchError,
    InputNotFoundError,
    InvalidArgumentError,
    RunNotFoundError,
)
from tests.suite import Suite, check_story, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

ALWAYS = [{"approval": "always"}]


async def with_calls(
    opened: OpenSuite,
    folder: Path,
    calls: Sequence[str | tuple[str, Any]],
    policies: Sequence[dict[str, Any]] = ALWAYS,
    **agent: Any,
) -> Suite:
    """A suite whose model makes calls, by name or with arguments, and then tells the last result."""
    named = [(each, {}) if isinstance(each, str) else each for each in calls]
    turn = [
        {"name": f"tools__{name}", "arguments": arguments, "id": f"c{number}"}
        for number, (name, arguments) in enumerate(named, 1)
    ]
    return await opened(
        {"turns": [{"tool_calls": turn}, {"text": "done: {last_tool}", "chunk_size": 1000}]},
        agents={"b": {"mcp_servers": ["tools"], "tool_policies": list(policies), **agent}},
        mcp_servers={"tools": stdio_server(folder)},
    )


def completed(events: list[event_pb2.RunEvent]) -> dict[str, event_pb2.ToolCallCompleted]:
    ends = [event.tool_call_completed for event in events if event.HasField("tool_call_completed")]
    assert len({each.call_id for each in ends}) == len(ends)
    return {each.call_id: each for each in ends}


def called(suite: Suite) -> list[str]:
    """The tools that were really called, in order."""
    return [each["tool"] for each in suite.notes()]


async def test_a_call_waits_for_approval_and_is_then_made_once(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, [("count", {"n": 1})])
    run = await suite.client.runs.start("b", "hi", session_id="s")
    (request,) = await suite.asked(run.run_id)
    waiting = await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert not waiting.HasField("result")
    assert (request.run_id, request.root_run_id, request.call_id) == (run.run_id, run.run_id, "c1")
    assert (request.path, request.namespace, request.state) == (
        "turn:1",
        "default",
        input_pb2.INPUT_STATE_PENDING,
    )
    approval = request.approval
    assert (approval.server, approval.tool, approval.interrupted) == ("tools", "count", False)
    assert json.loads(approval.arguments_json) == {"n": 1}
    assert approval.arguments_sha256 == hashlib.sha256(approval.arguments_json.encode()).hexdigest()
    assert request.expire_time.ToSeconds() - request.create_time.ToSeconds() == 24 * 60 * 60
    assert called(suite) == []
    watching = asyncio.create_task(suite.watched(run.run_id))
    answered = await suite.client.inputs.approve(request)
    assert (answered.state, answered.answer.HasField("approve")) == (input_pb2.INPUT_STATE_ANSWERED, True)
    events = await watching
    check_story(events)
    assert await suite.watched(run.run_id) == events
    assert kinds(events) == [
        "run_started",
        "turn_started",
        "message_completed",
        "input_requested",
        "run_suspended",
        "run_claimed",
        "input_received",
        "tool_call_started",
        "tool_call_completed",
        "turn_started",
        "text_delta",
        "message_completed",
        "run_finished",
    ]
    assert events[3].input_requested.request == request
    suspended = events[4].run_suspended
    assert suspended == event_pb2.RunSuspended(state=run_pb2.RUN_STATE_WAITING, input_ids=[request.input_id])
    assert events[6].input_received.input_id == request.input_id
    assert events[-1].run_finished.result.output == "done: ok"
    (effect,) = suite.notes()
    assert (effect["arguments"], effect["key"]) == ({"n": 1}, f"{run.run_id}:1:c1")
    assert [each async for each in suite.client.inputs.list(run.run_id)] == []
    assert [each async for each in suite.client.inputs.list(include_closed=True)] == [answered]
    roles = [each["role"] for each in await suite.messages("s")]
    assert roles == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("policies", "asks"),
    [
        (None, []),
        ([{"approval": "never"}], []),
        ([{"approval": "always"}], ["look", "add", "count", "wipe"]),
        # By the MCP default a tool that says nothing is destructive.
        ([{"approval": "destructive"}], ["count", "wipe"]),
        ([{"tool": "w*", "approval": "always"}], ["wipe"]),
        ([{"tool": "?ount", "approval": "always"}], ["count"]),
        ([{"tool": "coun", "approval": "always"}], []),
        ([{"server": "others", "approval": "always"}], []),
        ([{"server": "tools", "tool": "add", "approval": "always"}], ["add"]),
        # The first that fits holds.
        ([{"tool": "wipe", "approval": "never"}, {"approval": "destructive"}], ["count"]),
        ([{"tool": "wipe", "interrupted": "fail"}, {"approval": "always"}], ["look", "add", "count"]),
        ([{"approval": "never"}, {"tool": "wipe", "approval": "always"}], []),
    ],
)
async def test_the_first_policy_that_fits_says_whether_a_call_waits(
    opened: OpenSuite, tmp_path: Path, policies: list[dict[str, Any]] | None, asks: list[str]
) -> None:
    names = ["look", "add", "count", "wipe"]
    turn = [{"name": f"tools__{name}", "id": name} for name in names]
    agent = {"mcp_servers": ["tools", "others"]} | ({"tool_policies": policies} if policies else {})
    suite = await opened(
        {"turns": [{"tool_calls": turn}, {"text": "done"}]},
        agents={"b": agent},
        mcp_servers={"tools": stdio_server(tmp_path), "others": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    if asks:
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    requests = await suite.asked(run.run_id, len(asks))
    assert [each.approval.tool for each in requests] == asks
    assert sorted(called(suite)) == sorted(set(names) - set(asks)) or not asks
    for request in requests:
        await suite.client.inputs.approve(request)
    assert (await suite.ended(run.run_id)).result.output == "done"
    assert sorted(called(suite)) == sorted(names)


async def test_other_arguments_reach_the_tool_and_the_model_is_told(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_calls(opened, tmp_path, [("count", {"n": 1})])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.client.inputs.approve(request, '{"n": 2}')
    events = await suite.watched(run.run_id)
    check_story(events)
    (effect,) = suite.notes()
    assert effect["arguments"] == {"n": 2}
    (start,) = [event.tool_call_started for event in events if event.HasField("tool_call_started")]
    assert start.arguments_json == '{"n": 2}'
    end = completed(events)["c1"]
    assert (end.outcome, end.text) == (
        TOOL_CALL_OUTCOME_SUCCEEDED,
        '[a person changed the arguments to {"n": 2}]\nok',
    )
    assert suite.model.requests[-1]["messages"][-1]["content"] == end.text


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("not on a Friday", "the call was not made: a person denied it: not on a Friday"),
        ("", "the call was not made: a person denied it"),
    ],
)
async def test_a_denial_is_told_with_its_reason_and_the_run_goes_on(
    opened: OpenSuite, tmp_path: Path, reason: str, told: str
) -> None:
    suite = await with_calls(opened, tmp_path, ["count"])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.client.inputs.deny(request, reason)
    events = await suite.watched(run.run_id)
    check_story(events)
    end = completed(events)["c1"]
    assert (end.outcome, end.text) == (TOOL_CALL_OUTCOME_DENIED, told)
    assert suite.model.requests[-1]["messages"][-1]["content"] == told
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert called(suite) == []


async def test_an_answer_that_does_not_fit_its_request_is_refused(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, [("count", {"n": 1})])
    run = await suite.client.runs.start("b", "hi")
    other = await suite.client.runs.start("a", "hi")
    (request,) = await suite.asked(run.run_id)
    inputs = suite.client.inputs

    def changed(**fields: str) -> input_pb2.InputRequest:
        made = input_pb2.InputRequest()
        made.CopyFrom(request)
        for name, value in fields.items():
            setattr(made.approval if name == "arguments_sha256" else made, name, value)
        return made

    for arguments_sha256 in ("", "0" * 64, request.approval.arguments_sha256.upper()):
        with pytest.raises(InputMismatchError) as mismatch:
            await inputs.approve(changed(arguments_sha256=arguments_sha256))
        assert mismatch.value.facts == {"input_id": request.input_id}
        with pytest.raises(InputMismatchError):
            await inputs.deny(changed(arguments_sha256=arguments_sha256))
    for wrong in ({"run_id": other.run_id}, {"run_id": ""}, {"input_id": "input-0000000000000000"}):
        with pytest.raises(InputNotFoundError) as missing:
            await inputs.approve(changed(**wrong))
        assert set(missing.value.facts) == {"run_id", "input_id"}
    with pytest.raises(RunNotFoundError):
        _ = [each async for each in inputs.list("run-none")]
    for answer, field in (
        (InputAnswer(), "answer"),
        (InputAnswer(expired=Expiry()), "answer"),
        (InputAnswer(value_json="true"), "answer"),
        (InputAnswer(refuse=input_pb2.Refusal()), "answer"),
        (InputAnswer(deny=Denial(reason="x" * 1025)), "answer.deny.reason"),
        (InputAnswer(approve=Approval(arguments_json="[1]")), "answer.approve.arguments_json"),
        (InputAnswer(approve=Approval(arguments_json="{n: 1}")), "answer.approve.arguments_json"),
        (
            InputAnswer(approve=Approval(arguments_json='{"n": "' + "x" * 2**18 + '"}')),
            "answer.approve.arguments_json",
        ),
    ):
        with pytest.raises(InvalidArgumentError) as invalid:
            await inputs.answer(request, answer)
        (violation,) = invalid.value.violations
        assert violation.field == field
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_WAITING
    assert await suite.asked(run.run_id) == [request]
    await inputs.deny(request, "ä" * 1024)
    assert (await suite.ended(run.run_id)).result.output.endswith("ä" * 1024)


async def test_the_first_answer_counts_and_the_same_again_is_no_error(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_calls(opened, tmp_path, ["hold"])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    inputs = suite.client.inputs
    first = await inputs.approve(request)
    await until(suite.notes, "the tool is called")
    assert await inputs.approve(request) == first
    for answering in (inputs.deny(request), inputs.approve(request, '{"n": 1}')):
        with pytest.raises(InputClosedError, match="another answer") as closed:
            await answering
        assert closed.value.facts == {"input_id": request.input_id, "state": "ANSWERED"}
    (tmp_path / "release").touch()
    assert (await suite.ended(run.run_id)).result.output == "done: released"
    # Long after: nothing is done again.
    assert await inputs.approve(request) == first
    with pytest.raises(InputClosedError):
        await inputs.deny(request)
    assert called(suite) == ["hold"]
    check_story(await suite.watched(run.run_id))


async def test_a_cancelled_run_takes_no_answer_any_more(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, ["count", "look"])
    run = await suite.client.runs.start("b", "hi", session_id="s")
    requests = await suite.asked(run.run_id, 2)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.runs.cancel(run.run_id, reason="too slow")
    ended = await suite.ended(run.run_id)
    assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "too slow")
    check_story(await suite.watched(run.run_id))
    assert await suite.asked(run.run_id, 0) == []
    for request in requests:
        with pytest.raises(InputClosedError, match="its run has ended") as closed:
            await suite.client.inputs.approve(request)
        assert closed.value.facts["state"] == "CLOSED"
    listed = [each async for each in suite.client.inputs.list(run.run_id, include_closed=True)]
    assert [each.state for each in listed] == [input_pb2.INPUT_STATE_CLOSED] * 2
    assert called(suite) == []
    # The session is free.
    assert (await suite.result("a", "hi", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_nobody_answers_in_time_and_the_run_goes_on_though_nobody_watches(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_calls(opened, tmp_path, ["count"], input_timeout="300ms")
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    ended = await suite.ended(run.run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    assert ended.result.output == "done: the call was not made: nobody approved it in time"
    events = await suite.watched(run.run_id)
    check_story(events)
    (received,) = [event.input_received for event in events if event.HasField("input_received")]
    assert received.answer.HasField("expired")
    assert completed(events)["c1"].outcome == TOOL_CALL_OUTCOME_DENIED
    with pytest.raises(InputClosedError, match="its time is over"):
        await suite.client.inputs.approve(request)
    assert called(suite) == []


async def test_what_expires_leaves_the_rest_waiting_as_it_was(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(
        {
            "rules": [
                {
                    "when": {"system_contains": "inner", "last_role": "user"},
                    "tool_calls": [{"name": "tools__count"}],
                },
                {"when": {"system_contains": "inner"}, "text": "inner: {last_tool}", "chunk_size": 1000},
            ],
            "turns": [
                {
                    "tool_calls": [
                        {"name": "tools__look", "id": "c1"},
                        {"name": "c", "arguments": {"message": "go"}, "id": "c2"},
                    ]
                },
                {"text": "done"},
            ],
        },
        agents={
            "b": {"mcp_servers": ["tools"], "tool_policies": ALWAYS, "agents": ["c"]},
            "c": {
                "mcp_servers": ["tools"],
                "tool_policies": ALWAYS,
                "input_timeout": "300ms",
                "system_prompt": "inner",
            },
        },
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    requests = await suite.asked(run.run_id, 2)
    mine = next(each for each in requests if each.run_id == run.run_id)
    # One of them is given up; the other one goes on waiting.
    assert await suite.asked(run.run_id, 1) == [mine]
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.inputs.approve(mine)
    events = [event async for event in suite.client.runs.watch(run.run_id)]
    assert events[-1].run_finished.result.output == "done"
    ends = completed([event for event in events if event.run_id == run.run_id])
    assert ends["c2"].text == "inner: the call was not made: nobody approved it in time"
    assert ends["c1"].text == "ok"
    # It was taken up for the expiry and for the answer, and for nothing else.
    assert kinds(events).count("run_claimed") == kinds(events).count("run_suspended") == 2


async def test_a_call_that_is_approved_while_another_runs_begins_at_once(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_calls(opened, tmp_path, ["hold", "count"], [{"tool": "count", "approval": "always"}])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await until(lambda: called(suite) == ["hold"], "the other one runs")
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    await suite.client.inputs.approve(request)
    await until(lambda: called(suite) == ["hold", "count"], "it is called while the other one runs")
    (tmp_path / "release").touch()
    events = await suite.watched(run.run_id)
    check_story(events)
    assert {call_id: end.text for call_id, end in completed(events).items()} == {
        "c1": "released",
        "c2": "ok",
    }
    assert not {"run_suspended", "run_claimed"} & set(kinds(events))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
async def test_calls_of_one_turn_are_answered_in_any_order(
    opened: OpenSuite, tmp_path: Path, order: tuple[int, ...]
) -> None:
    suite = await with_calls(opened, tmp_path, ["count", "look", "wipe"])
    run = await suite.client.runs.start("b", "hi")
    requests = await suite.asked(run.run_id, 3)
    assert [each.call_id for each in requests] == ["c1", "c2", "c3"]
    for place in order:
        if place == 1:
            await suite.client.inputs.deny(requests[place], "no looking")
        else:
            await suite.client.inputs.approve(requests[place])
    events = await suite.watched(run.run_id)
    check_story(events)
    # The model is told in the order in which it asked.
    results = suite.model.requests[-1]["messages"][-3:]
    assert [(each["tool_call_id"], each["content"]) for each in results] == [
        ("c1", "ok"),
        ("c2", "the call was not made: a person denied it: no looking"),
        ("c3", "ok"),
    ]
    assert sorted(called(suite)) == ["count", "wipe"]
    assert len(suite.model.requests) == 2
