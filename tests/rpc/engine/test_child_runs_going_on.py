"""Runs inside a run that waits, is paused, or loses its engine: they go on from where they stood."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from retinue.engine.v1 import run_pb2
from tests.rpc.engine.trees import agents, ask, calls_ended, children, inside, says, script
from tests.suite import Suite, check_tree, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


async def test_a_child_that_asks_suspends_the_whole_tree_until_it_is_answered(
    opened: OpenSuite, tmp_path: Path
) -> None:
    worker = [{"tool_calls": [{"name": "tools__count", "arguments": {"n": 1}}]}, {"text": "did: {last_tool}"}]
    policy = {"tool": "count", "approval": "always"}
    suite = await opened(
        script([ask("count"), ask("and count")], *worker),
        agents=agents(worker={"mcp_servers": ["tools"], "tool_policies": [policy]}),
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("boss", "hi")

    async def states() -> set[int]:
        whole = [run.run_id, *await inside(suite, run.run_id)]
        return {(await suite.client.runs.get(each)).state for each in whole}

    async def waits() -> bool:
        return await states() == {run_pb2.RUN_STATE_WAITING}

    await until(waits, "the whole tree waits")
    asked = [each async for each in suite.client.inputs.list(run.run_id)]
    first, second = sorted(asked, key=lambda each: each.path)
    assert [each.path for each in (first, second)] == ["turn:1/call:1/turn:1", "turn:1/call:2/turn:1"]
    assert [each.run_id for each in (first, second)] == await inside(suite, run.run_id)
    assert {each.root_run_id for each in asked} == {run.run_id}
    await suite.client.inputs.approve(second)

    async def second_ended() -> bool:
        ended = await suite.client.runs.get(second.run_id)
        return ended.state == run_pb2.RUN_STATE_SUCCEEDED

    await until(second_ended, "the second goes on")
    assert (await suite.client.runs.get(first.run_id)).state != run_pb2.RUN_STATE_SUCCEEDED
    await suite.client.inputs.deny(first, "no")
    events = await suite.watched(run.run_id)
    check_tree(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert len(suite.notes()) == 1
    told = [each["content"] for each in suite.model.requests[-1]["messages"] if each["role"] == "tool"]
    assert "denied it: no" in told[0]
    assert told[1] == "did: ok"
    # Each model was asked once for each turn, however often the run was taken up.
    assert len(suite.model.requests) == 6


async def test_a_tree_goes_on_after_a_kill_without_doing_anything_twice(tmp_path: Path) -> None:
    worker = says(
        "worker",
        {"tool_calls": [{"name": "tools__count"}]},
        {"tool_calls": [{"name": "tools__hold_again"}]},
        {"text": "did: {last_tool}"},
    )
    quick = says("quick", {"text": "quick"})
    boss = says("boss", {"tool_calls": [ask("slow"), ask("quick", "quick")]}, {"text": "told"})
    project = agents(boss={"agents": ["worker", "quick"]}, worker={"mcp_servers": ["tools"]}, quick={})
    async with open_processes(
        tmp_path,
        {"rules": [*boss, *worker, *quick]},
        agents=project,
        mcp_servers={"tools": stdio_server(tmp_path)},
    ) as suite:
        run = await suite.client.runs.start("boss", "hi", session_id="s")
        await until(lambda: len(suite.notes()) == 2, "the child's second tool is called")
        found = await inside(suite, run.run_id)

        async def quick_ended() -> bool:
            states = [(await suite.client.runs.get(each)).state for each in found]
            return run_pb2.RUN_STATE_SUCCEEDED in states

        await until(quick_ended, "the other child has ended")
        await suite.engine_process.kill()
        (tmp_path / "release").touch()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        check_tree(events)
        assert "run_claimed" in kinds(events)
        assert children(events) == found
        result = events[-1].run_finished.result
        assert (result.state, result.turns, result.tool_calls) == (run_pb2.RUN_STATE_SUCCEEDED, 6, 4)
        # What was finished was not done again, neither calls nor answers.
        assert [each["tool"] for each in suite.notes()] == ["count", "hold_again", "hold_again"]
        assert len({each["key"] for each in suite.notes()}) == 2
        assert len(suite.model.requests) == 6
        totals = (await suite.client.sessions.get("s")).totals
        assert (totals.runs, totals.turns, totals.tool_calls) == (1, 6, 4)


async def test_an_answer_of_a_child_that_a_kill_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    once = {"when": {"system_contains": "the worker."}, "times": 1, "hang": True}
    rules = [once, *script([ask("count")])["rules"]]
    async with open_processes(tmp_path, {"rules": rules}, agents=agents()) as suite:
        run = await suite.client.runs.start("boss", "hi")
        await until(lambda: len(suite.model.requests) == 2, "the child's model is asked")
        # A model is asked while what led to it is being stored: what is seen is stored.
        async for event in suite.client.runs.watch(run.run_id):
            if event.HasField("turn_started") and event.run_id != run.run_id:
                break
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        check_tree(events)
        (child,) = children(events)
        discarded = [event for event in events if event.WhichOneof("event") == "message_discarded"]
        assert [(event.run_id, event.path) for event in discarded] == [(child, "turn:1/call:1/turn:1")]
        assert events[-1].run_finished.result.output == "told: one two three"
        assert len(suite.model.requests) == 4


async def test_a_question_of_a_child_outlives_the_engine(tmp_path: Path) -> None:
    question = {"tool_calls": [{"name": "ask_user", "arguments": {"question": "how many?"}}]}
    rules = script([ask("count")], question, {"text": "{last_tool}"})["rules"]
    async with open_processes(tmp_path, {"rules": rules}, agents=agents(worker={"ask_user": True})) as suite:
        run = await suite.client.runs.start("boss", "hi")
        (asked,) = await suite.asked(run.run_id)
        await suite.engine_process.kill()
        await suite.engine_process.start()
        await suite.client.inputs.provide(asked, 3)
        events = await suite.watched(run.run_id)
        check_tree(events)
        assert json.loads(calls_ended(events, asked.run_id)[0].structured_json) == 3
        assert events[-1].run_finished.result.output == "told: 3"


async def test_an_answer_reaches_a_child_while_another_is_at_work(opened: OpenSuite) -> None:
    question = {"tool_calls": [{"name": "ask_user", "arguments": {"question": "how many?"}}]}
    rules = [
        *says("boss", {"tool_calls": [ask("ask"), ask("hang", "slow")]}, {"text": "never"}),
        *says("worker", question, {"text": "{last_tool} it is"}),
        *says("slow", {"hang": True}),
    ]
    more = {"boss": {"agents": ["worker", "slow"]}, "worker": {"ask_user": True}, "slow": {}}
    suite = await opened({"rules": rules}, agents=agents(**more))
    run = await suite.client.runs.start("boss", "hi")
    (asked,) = await suite.asked(run.run_id)
    await until(lambda: len(suite.model.requests) == 3, "the other one is at work")
    await suite.client.inputs.provide(asked, 7)
    assert (await suite.ended(asked.run_id)).result.output == "7 it is"
    # Nobody had to stop for that.
    seen = [event async for event in suite.client.runs.events(run.run_id)]
    assert "run_suspended" not in kinds(seen)
    assert len(suite.model.broken) == 0
    await suite.client.runs.cancel(run.run_id)
    check_tree(await suite.watched(run.run_id))


async def test_a_pause_stops_children_at_their_next_safe_point(opened: OpenSuite, tmp_path: Path) -> None:
    hold = {"tool_calls": [{"name": "tools__hold"}]}
    suite = await opened(
        script([ask("hold"), ask("hold")], hold, {"text": "did: {last_tool}"}),
        agents=agents(worker={"mcp_servers": ["tools"]}),
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("boss", "hi")
    await until(lambda: len(suite.notes()) == 2, "both children's tools are called")
    await suite.client.runs.pause(run.run_id, reason="lunch")
    (tmp_path / "release").touch()

    async def paused() -> bool:
        whole = [run.run_id, *await inside(suite, run.run_id)]
        return {(await suite.client.runs.get(each)).state for each in whole} == {run_pb2.RUN_STATE_PAUSED}

    await until(paused, "the whole tree is paused")
    assert len(suite.model.requests) == 3
    await suite.client.runs.resume(run.run_id)
    events = await suite.watched(run.run_id)
    check_tree(events)
    assert kinds(events).count("run_suspended") == 1
    assert events[-1].run_finished.result.output == "told: did: released"
    assert (len(suite.notes()), len(suite.model.requests)) == (2, 6)
