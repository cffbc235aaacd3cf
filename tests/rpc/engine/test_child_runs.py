"""Agents called as tools: runs inside a run, with one story, and each with its own end."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from retinue.engine.v1.event_pb2 import TOOL_CALL_OUTCOME_CALL_FAILED, TOOL_CALL_OUTCOME_SUCCEEDED
from retinue.errors import RunStateInvalidError
from tests.rpc.engine.trees import agents, ask, calls_ended, children, inside, says, script
from tests.suite import Suite, check_tree, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

USAGE = {"input_tokens": 60, "output_tokens": 40}


async def test_an_agent_called_as_a_tool_is_a_run_inside_the_story(opened: OpenSuite) -> None:
    suite = await opened(
        script([ask("count to three", id="c1")]), agents=agents(worker={"description": "Counts."})
    )
    events = await suite.story("boss", "please count", session_id="s")
    check_tree(events)
    root, (child,) = events[0].run_id, children(events)
    inside = [event for event in events if event.run_id == child]
    assert kinds(inside) == [
        "child_run_started",
        "turn_started",
        "text_delta",
        "message_completed",
        "child_run_finished",
    ]
    place = "turn:1/call:1"
    assert [event.path for event in (inside[0], inside[1], inside[-1])] == [place, f"{place}/turn:1", place]
    began = inside[0].child_run_started
    assert (began.parent_run_id, began.call_id, began.depth) == (root, "c1", 1)
    assert (began.target.name, began.target.version, began.message) == ("worker", 1, "count to three")
    # Between the call's beginning and its end lies all of the child.
    mine = [event for event in events if event.run_id == root]
    start = next(event for event in mine if event.WhichOneof("event") == "tool_call_started")
    end = next(event for event in mine if event.WhichOneof("event") == "tool_call_completed")
    assert start.sequence < inside[0].sequence <= inside[-1].sequence < end.sequence
    assert (start.tool_call_started.tool, start.tool_call_started.server) == ("worker", "")
    (told,) = calls_ended(events, root)
    assert (told.outcome, told.text) == (TOOL_CALL_OUTCOME_SUCCEEDED, "one two three")
    assert events[-1].run_finished.result.output == "told: one two three"
    # The caller's model sees a tool, and the callee's sees what it was asked and nothing else.
    shown = suite.model.requests[0]["tools"][0]["function"]
    assert (shown["name"], shown["description"]) == ("worker", "Counts.")
    assert shown["parameters"]["required"] == ["message"]
    assert suite.model.requests[1]["messages"] == [
        {"role": "system", "content": "You are the worker."},
        {"role": "user", "content": "count to three"},
    ]
    assert [each["role"] for each in await suite.messages("s")] == ["user", "assistant", "tool", "assistant"]


async def test_a_child_can_be_got_and_listed_and_is_in_no_other_list(opened: OpenSuite) -> None:
    suite = await opened(script([ask("count", id="c1")]), agents=agents())
    events = await suite.story("boss", session_id="s")
    root, (child_id,) = events[0].run_id, children(events)
    child = await suite.client.runs.get(child_id)
    assert (child.state, child.result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "one two three")
    assert child.result.stop_reason == run_pb2.STOP_REASON_COMPLETED
    assert (child.root_run_id, child.parent_run_id, child.path) == (root, root, "turn:1/call:1")
    assert (child.target.name, child.message, child.session_id) == ("worker", "count", "")
    assert child.settings.system_prompt == "You are the worker."
    finished = next(event for event in events if event.WhichOneof("event") == "child_run_finished")
    assert child.result == finished.child_run_finished.result
    assert child.end_time.ToMicroseconds() == finished.time.ToMicroseconds()
    top = await suite.client.runs.get(root)
    assert (top.root_run_id, top.parent_run_id, top.path) == (root, "", "")
    assert [run.run_id async for run in suite.client.runs.list(root_run_id=root)] == [child_id]
    assert [run.run_id async for run in suite.client.runs.list()] == [root]
    assert [run.run_id async for run in suite.client.runs.list(session_id="s")] == [root]


async def test_a_watch_of_a_child_gets_its_part_and_ends_with_it(opened: OpenSuite) -> None:
    held = {"text": "told", "delay_ms": 30_000}
    boss = says("boss", {"tool_calls": [ask("count")]}, held)
    suite = await opened({"rules": [*boss, *says("worker", {"text": "one two three"})]}, agents=agents())
    run = await suite.client.runs.start("boss", "hi")
    (child,) = await until(lambda: inside(suite, run.run_id), "the child begins")
    # It ends though the whole run has not: its model is still thinking.
    events = await asyncio.wait_for(suite.watched(child), 10)
    assert {event.run_id for event in events} == {child}
    assert kinds(events)[0] == "child_run_started"
    assert kinds(events)[-1] == "child_run_finished"
    last = events[-1].sequence
    assert await asyncio.wait_for(suite.watched(child, after=events[1].sequence), 10) == events[2:]
    assert await asyncio.wait_for(suite.watched(child, after=last), 10) == []
    whole = await until(lambda: began_turn_2(suite), "the caller is asked again")
    assert whole
    assert await asyncio.wait_for(suite.watched(child, after=last + 1), 10) == []
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    assert await suite.watched(child) == events


def began_turn_2(suite: Suite) -> bool:
    return any(len(each["messages"]) > 3 for each in suite.model.requests)


async def test_two_calls_of_one_agent_are_two_runs_side_by_side(opened: OpenSuite, tmp_path: Path) -> None:
    # Each child's tool waits for the other's.
    meet = {"tool_calls": [{"name": "tools__meet", "arguments": {"of": 2}}]}
    suite = await opened(
        script(
            [ask("first", id="same"), ask("second", id="same")], meet, {"text": "{last_user}: {last_tool}"}
        ),
        agents=agents(worker={"mcp_servers": ["tools"]}),
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    events = await suite.story("boss")
    check_tree(events)
    first, second = children(events)
    assert [await path_of(suite, each) for each in (first, second)] == ["turn:1/call:1", "turn:1/call:2"]
    results = [(await suite.client.runs.get(each)).result for each in (first, second)]
    assert [each.output for each in results] == ["first: met 2", "second: met 2"]
    told = [each["content"] for each in suite.model.requests[-1]["messages"] if each["role"] == "tool"]
    assert told == ["first: met 2", "second: met 2"]


async def path_of(suite: Suite, run_id: str) -> str:
    return (await suite.client.runs.get(run_id)).path


async def test_children_of_children_stand_under_their_caller(opened: OpenSuite) -> None:
    rules = [
        *says("boss", {"tool_calls": [ask("deep", "middle")]}, {"text": "boss: {last_tool}"}),
        *says("middle", {"tool_calls": [ask("deeper"), ask("again")]}, {"text": "middle: {last_tool}"}),
        *says("worker", {"text": "worker: {last_user}"}),
    ]
    more = {"boss": {"agents": ["middle"]}, "middle": {"agents": ["worker"]}}
    suite = await opened({"rules": rules}, agents=agents(**more))
    events = await suite.story("boss")
    check_tree(events)
    assert events[-1].run_finished.result.output == "boss: middle: worker: again"
    middle, *workers = children(events)
    started = [event for event in events if event.WhichOneof("event") == "child_run_started"]
    assert [each.path for each in started] == [
        "turn:1/call:1",
        "turn:1/call:1/turn:1/call:1",
        "turn:1/call:1/turn:1/call:2",
    ]
    assert [each.child_run_started.parent_run_id for each in started] == [events[0].run_id, middle, middle]
    assert [each.child_run_started.depth for each in started] == [1, 2, 2]
    assert await inside(suite, events[0].run_id) == [middle, *workers]
    part = await suite.watched(middle)
    assert {event.run_id for event in part} == {middle, *workers}
    assert part == [event for event in events if event.path.startswith("turn:1/call:1")]


async def test_a_child_that_fails_is_told_and_its_caller_goes_on(opened: OpenSuite) -> None:
    worker = {"error": {"status": 400, "message": "no such model"}}
    suite = await opened(script([ask("count")], worker), agents=agents())
    events = await suite.story("boss")
    check_tree(events)
    root, (child_id,) = events[0].run_id, children(events)
    child = await suite.client.runs.get(child_id)
    assert child.state == run_pb2.RUN_STATE_FAILED
    assert child.result.error.reason == pb.ERROR_REASON_LLM_INVALID_REQUEST
    (told,) = calls_ended(events, root)
    assert (told.outcome, told.error) == (TOOL_CALL_OUTCOME_CALL_FAILED, child.result.error)
    assert "no such model" in told.text
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert result.output == f"told: {told.text}"


@pytest.mark.parametrize(("max_depth", "asked"), [(0, 0), (1, 1)])
async def test_agents_call_one_another_only_so_deep(opened: OpenSuite, max_depth: int, asked: int) -> None:
    rules = [
        {"when": {"last_role": "tool"}, "text": "{last_tool}"},
        *says("boss", {"tool_calls": [ask("deep", "middle")]}),
        *says("middle", {"tool_calls": [ask("deeper")]}),
        *says("worker", {"text": "too deep"}),
    ]
    more = {"boss": {"agents": ["middle"]}, "middle": {"agents": ["worker"]}}
    suite = await opened({"rules": rules}, agents=agents(**more), max_depth=max_depth)
    events = await suite.story("boss")
    check_tree(events)
    assert len(children(events)) == asked
    ended = [event for event in events if event.WhichOneof("event") == "tool_call_completed"]
    assert ended[0].tool_call_completed.error.reason == pb.ERROR_REASON_RUN_DEPTH_EXCEEDED
    assert dict(ended[0].tool_call_completed.error.metadata) == {"max_depth": str(max_depth)}
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert "RETINUE_MAX_DEPTH" in result.output


async def test_what_children_used_counts_in_their_caller_and_once_in_the_session(
    opened: OpenSuite, tmp_path: Path
) -> None:
    boss = says("boss", {"tool_calls": [ask("count")], "usage": USAGE}, {"text": "told", "usage": USAGE})
    worker = says(
        "worker",
        {"tool_calls": [{"name": "tools__count"}] * 2, "usage": USAGE},
        {"text": "done", "usage": USAGE},
    )
    price = {"input_nano_usd_per_million": 1_000_000, "output_nano_usd_per_million": 1_000_000}
    suite = await opened(
        {"rules": [*boss, *worker]},
        llms={"priced": {"price": price}},
        agents=agents(boss={"llm": "priced"}, worker={"llm": "priced", "mcp_servers": ["tools"]}),
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    events = await suite.story("boss", session_id="s")
    check_tree(events)
    child = (await suite.client.runs.get(children(events)[0])).result
    assert (child.turns, child.tool_calls, child.cost.nano_usd) == (2, 2, 200)
    assert (child.usage.input_tokens, child.usage.output_tokens) == (120, 80)
    result = events[-1].run_finished.result
    assert (result.turns, result.tool_calls, result.cost.nano_usd) == (4, 3, 400)
    assert (result.usage.input_tokens, result.usage.output_tokens) == (240, 160)
    totals = (await suite.client.sessions.get("s")).totals
    assert (totals.runs, totals.turns, totals.tool_calls) == (1, 4, 3)
    assert (totals.usage, totals.cost) == (result.usage, result.cost)
    assert len(suite.notes()) == 2


async def test_a_cancel_of_the_whole_ends_its_children(opened: OpenSuite) -> None:
    rules = [
        *says("boss", {"tool_calls": [ask("deep", "middle"), ask("hang")]}, {"text": "never"}),
        *says("middle", {"tool_calls": [ask("hang")]}, {"text": "never"}),
        *says("worker", {"hang": True}),
    ]
    more = {"boss": {"agents": ["middle", "worker"]}, "middle": {"agents": ["worker"]}}
    suite = await opened({"rules": rules}, agents=agents(**more))
    run = await suite.client.runs.start("boss", "hi")
    await until(lambda: len(suite.model.requests) == 4, "both workers hang")

    async def all_three() -> list[str] | None:
        found = await inside(suite, run.run_id)
        return found if len(found) == 3 else None

    # A model is asked before it is stored that its run has begun.
    found = await until(all_three, "all three are stored")
    assert [(await suite.client.runs.get(each)).state for each in found] == [run_pb2.RUN_STATE_RUNNING] * 3
    await suite.client.runs.cancel(run.run_id, reason="enough")
    result = (await suite.ended(run.run_id)).result
    assert (result.state, result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "enough")
    await until(lambda: len(suite.model.broken) == 2, "both models' servers see that nobody listens")
    events = await suite.watched(run.run_id)
    check_tree(events)
    for each in found:
        child = await suite.client.runs.get(each)
        assert child.state == child.result.state == run_pb2.RUN_STATE_CANCELLED
        assert child.result.stop_reason == run_pb2.STOP_REASON_CANCELLED


async def test_a_child_that_fails_ends_the_runs_inside_it(opened: OpenSuite) -> None:
    rules = [
        *says("boss", {"tool_calls": [ask("deep", "middle")]}, {"text": "told: {last_tool}"}),
        *says("middle", {"tool_calls": [ask("hang")]}, {"text": "never"}),
        *says("worker", {"hang": True}),
    ]
    more = {"boss": {"agents": ["middle"]}, "middle": {"agents": ["worker"], "timeout": "1s"}}
    suite = await opened({"rules": rules}, agents=agents(**more))
    events = await suite.story("boss")
    check_tree(events)
    middle, worker = [(await suite.client.runs.get(each)).result for each in children(events)]
    assert (middle.state, middle.stop_reason) == (run_pb2.RUN_STATE_FAILED, run_pb2.STOP_REASON_TIMEOUT)
    assert worker.state == run_pb2.RUN_STATE_CANCELLED
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert "timeout of 1 s" in result.output


async def test_what_is_for_the_whole_run_is_refused_for_a_child(opened: OpenSuite) -> None:
    suite = await opened(script([ask("hang")], {"hang": True}), agents=agents())
    run = await suite.client.runs.start("boss", "hi")
    (child,) = await until(lambda: inside(suite, run.run_id), "the child begins")
    runs = suite.client.runs
    for control in (runs.cancel, runs.pause, runs.resume, runs.retry):
        with pytest.raises(RunStateInvalidError) as refused:
            await control(child)
        assert refused.value.facts["root_run_id"] == run.run_id
    assert (await runs.get(child)).state == run_pb2.RUN_STATE_RUNNING


async def test_a_call_without_a_message_is_told_what_is_missing(opened: OpenSuite) -> None:
    calls = [{"name": "worker", "arguments": each} for each in ({}, {"message": 7}, {"message": "  "}, "[")]
    suite = await opened(script(calls), agents=agents())
    events = await suite.story("boss")
    check_tree(events)
    assert children(events) == []
    ended = calls_ended(events, events[0].run_id)
    assert [each.error.reason for each in ended] == [pb.ERROR_REASON_INVALID_ARGUMENT] * 4
    assert all("'message'" in each.text for each in ended[:3])


async def test_agents_whose_tool_names_collide_are_told_apart(opened: OpenSuite, tmp_path: Path) -> None:
    calls = [{"name": name, "arguments": {"message": "hi"}} for name in ("tools__count", "tools__count_2")]
    rules = [
        *says("boss", {"tool_calls": calls}, {"text": "{last_tool}"}),
        *says("tools__count", {"text": "I am an agent"}),
    ]
    more = {"boss": {"agents": ["tools__count"], "mcp_servers": ["tools"]}, "tools__count": {}}
    suite = await opened(
        {"rules": rules}, agents=agents(**more), mcp_servers={"tools": stdio_server(tmp_path)}
    )
    events = await suite.story("boss")
    check_tree(events)
    told = [each["content"] for each in suite.model.requests[-1]["messages"] if each["role"] == "tool"]
    assert told == ["ok", "I am an agent"]
    names = [each["function"]["name"] for each in suite.model.requests[0]["tools"]]
    assert len(set(names)) == len(names)


async def test_a_childs_long_answer_is_cut_and_the_run_goes_on(opened: OpenSuite) -> None:
    suite = await opened(
        script([ask("long")], {"text": "€" * 300_000, "chunk_size": 50_000}), agents=agents()
    )
    events = await suite.story("boss")
    check_tree(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    (told,) = calls_ended(events, events[0].run_id)
    kept = len(told.text) - len(told.text.lstrip("€"))
    assert 380_000 < kept * 3 < 400_000
    assert told.text[kept:].startswith("\n[cut")
    child = (await suite.client.runs.get(children(events)[0])).result
    assert child.output == told.text


async def test_a_run_that_fails_cancels_the_runs_inside_it(opened: OpenSuite) -> None:
    suite = await opened(
        script([ask("hang"), ask("hang")], {"hang": True}), agents=agents(boss={"timeout": "1s"})
    )
    events = await suite.story("boss")
    check_tree(events)
    assert events[-1].run_finished.result.error.reason == pb.ERROR_REASON_RUN_TIMEOUT
    results = [(await suite.client.runs.get(each)).result for each in children(events)]
    assert [each.state for each in results] == [run_pb2.RUN_STATE_CANCELLED] * 2
    await until(lambda: len(suite.model.broken) == 2, "the model's server sees that nobody listens")


async def test_a_model_that_fails_for_a_moment_is_asked_again_in_its_child(opened: OpenSuite) -> None:
    once = {"when": {"system_contains": "the worker."}, "times": 1, "error": {"status": 503}}
    rules = [once, *script([ask("count")])["rules"]]
    suite = await opened(
        {"rules": rules}, llms={"patient": {"max_retries": 1}}, agents=agents(worker={"llm": "patient"})
    )
    events = await suite.story("boss")
    check_tree(events)
    (child,) = children(events)
    assert (await suite.client.runs.get(child)).result.retries == 1
    assert events[-1].run_finished.result.retries == 1
    (discarded,) = [event for event in events if event.WhichOneof("event") == "message_discarded"]
    assert (discarded.run_id, discarded.path) == (child, "turn:1/call:1/turn:1")
    assert events[-1].run_finished.result.output == "told: one two three"
