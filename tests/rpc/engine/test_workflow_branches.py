"""What is told of branches and steps: begun, joined, given up, how long they took, and what came of them."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.rpc.engine.test_graph_workflows import echo, opened_with, outputs, result_of, states
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]


def branches(events: list[event_pb2.RunEvent]) -> list[tuple[str, str, str]]:
    """What became of which branch of which step, in order."""
    found = []
    for event in events:
        which = event.WhichOneof("event") or ""
        if which.startswith("branch_"):
            branch = getattr(event, which)
            found.append((which.removeprefix("branch_"), branch.step, branch.branch))
    return found


def abandoned(events: list[event_pb2.RunEvent]) -> dict[str, event_pb2.BranchAbandoned]:
    return {
        each.branch_abandoned.branch: each.branch_abandoned
        for each in events
        if each.HasField("branch_abandoned")
    }


async def test_a_fork_tells_its_branches_and_a_join_which_of_them_came(opened: OpenSuite) -> None:
    nodes = [echo("plan"), echo("a"), echo("b"), echo("end", "x")]
    suite = await opened_with(opened, nodes, "plan>a plan>b a>end b>end")
    events = await suite.story("flow")
    assert branches(events) == [
        ("opened", "plan", "a"),
        ("opened", "plan", "b"),
        ("joined", "end", "a"),
        ("joined", "end", "b"),
    ]


async def test_each_item_is_told_as_a_branch_and_a_failed_one_with_why(opened: OpenSuite) -> None:
    each = {"items": "['a', 1]", "agent": "echo", "input": "{{ item.x if index else item }}"}
    nodes = [{"name": "all", "each": {**each, "on_failure": "continue", "concurrency": 1}}]
    suite = await opened_with(opened, nodes)
    events = await suite.story("flow")
    assert branches(events) == [
        ("opened", "all", "item:1"),
        ("joined", "all", "item:1"),
        ("opened", "all", "item:2"),
        ("abandoned", "all", "item:2"),
    ]
    assert abandoned(events)["item:2"].error.reason == pb.ERROR_REASON_EXPRESSION_FAILED
    assert outputs(events)["all"] == ["a", None]


async def test_branches_that_a_failure_or_a_quorum_ends_say_so(opened: OpenSuite) -> None:
    inner = {
        "steps": [
            {"name": "wait", "condition": "input == 'late'", "agent": "slow"},
            {"name": "stop", "condition": "input == 'bad'", "fail": {"message": "it is bad"}},
            echo("say", "{{ input }}"),
        ]
    }
    each = {"items": "['late', 'bad']", "linear_workflow": "inner"}
    suite = await opened_with(opened, [{"name": "all", "each": each}], linear_workflows={"inner": inner})
    given_up = abandoned(await suite.story("flow"))
    assert "it is bad" in given_up["item:2"].error.message
    assert not given_up["item:1"].HasField("error")
    assert "another branch failed: " in given_up["item:1"].reason


@pytest.mark.parametrize(("items", "taken"), [("['a', 'b', 1]", "2"), ("['a']", "1"), ("[]", "0")])
async def test_a_quorum_of_branches_that_is_not_reached_fails_the_step(
    opened: OpenSuite, items: str, taken: str
) -> None:
    each = {"items": items, "agent": "echo", "input": "{{ item.x if index == 2 else item }}", "quorum": 3}
    suite = await opened_with(opened, [{"name": "all", "each": {**each, "on_failure": "continue"}}])
    error = result_of(await suite.story("flow")).error
    assert error.reason == pb.ERROR_REASON_JOIN_NOT_MET
    assert (error.metadata["taken"], error.metadata["needed"]) == (taken, "3")


async def test_wait_all_waits_for_branches_that_ask_somebody_before_it_fails(opened: OpenSuite) -> None:
    inner = {
        "steps": [
            {"name": "stop", "condition": "input == 'bad'", "fail": {"message": "it is bad"}},
            {"name": "ask", "ask": {"question": "go on?"}},
        ]
    }
    each = {"items": "['bad', 'good']", "linear_workflow": "inner", "on_failure": "wait_all"}
    suite = await opened_with(opened, [{"name": "all", "each": each}], linear_workflows={"inner": inner})
    run = await suite.client.runs.start("flow", "hi")
    (asked,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.inputs.provide(asked, "yes")
    events = await suite.watched(run.run_id)
    assert "it is bad" in result_of(events).error.message
    assert sorted(branches(events)) == [
        ("abandoned", "all", "item:1"),
        ("joined", "all", "item:2"),
        ("opened", "all", "item:1"),
        ("opened", "all", "item:2"),
    ]


async def test_nodes_that_a_failure_or_a_join_ends_are_told_as_given_up(opened: OpenSuite) -> None:
    nodes = [{"name": "late", "agent": "slow"}, {"name": "bad", "agent": "broken"}]
    suite = await opened_with(opened, nodes)
    events = await suite.story("flow")
    assert branches(events) == [("abandoned", "bad", "late")]
    assert abandoned(events)["late"].reason == "the node bad failed"


async def test_a_join_that_begins_without_a_branch_tells_that_it_is_given_up(opened: OpenSuite) -> None:
    join = {"mode": "quorum", "quorum": 1, "cancel_rest": True}
    nodes = [echo("quick"), {"name": "late", "agent": "slow"}, echo("end", "x", join=join)]
    suite = await opened_with(opened, nodes, "quick>end late>end")
    events = await suite.story("flow")
    assert branches(events) == [("joined", "end", "quick"), ("abandoned", "end", "late")]
    assert "without it" in abandoned(events)["late"].reason


async def test_a_branch_that_takes_too_long_fails_and_its_run_is_cancelled(opened: OpenSuite) -> None:
    each = {"items": "[1, 2]", "agent": "slow", "branch_timeout": "100ms", "on_failure": "continue"}
    suite = await opened_with(opened, [{"name": "all", "each": each}])
    events = await suite.story("flow")
    assert outputs(events)["all"] == [None, None]
    assert {each.error.reason for each in abandoned(events).values()} == {pb.ERROR_REASON_STEP_TIMEOUT}
    ends = [each.child_run_finished.result.state for each in events if each.HasField("child_run_finished")]
    assert ends == [run_pb2.RUN_STATE_CANCELLED] * 2


@pytest.mark.parametrize("late", ["slow", "ask"])
async def test_a_join_waits_for_no_longer_than_its_timeout(opened: OpenSuite, late: str) -> None:
    ask = {"name": "late", "ask": {"question": "now?"}}
    join = {"mode": "all", "timeout": "200ms"}
    nodes = [echo("quick"), ask if late == "ask" else {"name": "late", "agent": "slow"}]
    suite = await opened_with(opened, [*nodes, echo("end", "x", join=join)], "quick>end late>end")
    error = result_of(await suite.story("flow")).error
    assert error.reason == pb.ERROR_REASON_JOIN_NOT_MET
    assert "1 were taken within 0.2 s" in error.message


async def test_a_join_whose_time_is_over_may_have_a_fallback(opened: OpenSuite) -> None:
    join = {"mode": "all", "timeout": "100ms", "cancel_rest": True}
    end = echo(
        "end", "all", join=join, on_error="fallback", fallback={"agent": "echo", "input": "what there is"}
    )
    nodes = [echo("quick"), {"name": "late", "agent": "slow", "timeout": "1s", "on_error": "continue"}, end]
    suite = await opened_with(opened, nodes, "quick>end late>end", {"output": "steps.end.output"})
    assert result_of(await suite.story("flow")).output == "what there is"


@pytest.mark.parametrize(
    ("merge", "asked"), [("first", "A"), ("list", '["A", "B"]'), ("object", '{"a": "A", "b": "B"}')]
)
async def test_what_a_join_without_input_is_asked_is_merged_as_it_says(
    opened: OpenSuite, merge: str, asked: str
) -> None:
    nodes = [echo("b", "B"), echo("a", "A"), echo("end", join={"merge": merge})]
    suite = await opened_with(opened, nodes, "a>end b>end")
    assert result_of(await suite.story("flow")).output == asked


async def test_the_result_keeps_what_finished_steps_gave_where_a_later_one_fails(opened: OpenSuite) -> None:
    nodes = [
        echo("a", "A"),
        echo("left_out", condition="false"),
        {"name": "bad", "agent": "broken"},
        echo("never"),
    ]
    suite = await opened_with(opened, nodes, "a>left_out left_out>never a>bad bad>never")
    result = result_of(await suite.story("flow"))
    assert result.state == run_pb2.RUN_STATE_FAILED
    steps = {step.step: step for step in result.steps}
    found = {name: (step.state, step.output_json) for name, step in steps.items()}
    assert found == {
        "a": (run_pb2.STEP_STATE_COMPLETED, '"A"'),
        "left_out": (run_pb2.STEP_STATE_SKIPPED, ""),
        "bad": (run_pb2.STEP_STATE_FAILED, ""),
    }
    assert "400" in steps["bad"].reason
    assert "false" in steps["left_out"].reason
    assert steps["a"].usage.input_tokens > 0
    assert steps["a"].duration.ToNanoseconds() > 0
    assert steps["a"].attempts == 1


async def test_outputs_in_the_result_have_a_bound_and_say_where_one_is_left_out(opened: OpenSuite) -> None:
    big = {"transform": {"expression": "'x'" + " + 'x'" * 9}}
    text = {"transform": {"template": "{{ 'x' * 50000 }}"}}
    nodes = [{"name": "one", **text}, {"name": "two", **text}, {"name": "small", **big}]
    suite = await opened_with(opened, nodes, "one>two two>small")
    steps = result_of(await suite.story("flow")).steps
    assert [len(step.output_json) for step in steps] == [50002, 0, 12]
    assert [step.output_omitted for step in steps] == [False, True, False]


async def test_a_route_a_step_left_out_and_another_try_say_why_and_when(opened: OpenSuite) -> None:
    router = {"routes": [{"name": "big", "when": "size(input) > 1"}], "default": "small"}
    edges = [
        {"source": "way", "target": "late", "route": "big"},
        {"source": "way", "target": "other", "route": "small"},
    ]
    retry = {"attempts": 2, "backoff": "20ms"}
    late = {"name": "late", "agent": "slow", "timeout": "100ms", "retry": retry}
    nodes = [{"name": "way", "router": router}, late, echo("other")]
    events = await (await opened_with(opened, nodes, workflow={"edges": edges})).story("flow")
    (taken,) = (each.route_taken for each in events if each.HasField("route_taken"))
    assert taken.reason == "size(input) > 1 is true"
    (skipped,) = (each.step_skipped for each in events if each.HasField("step_skipped"))
    assert (skipped.step, skipped.reason) == ("other", "no edge that leads to it was taken")
    (again,) = (each.step_retrying for each in events if each.HasField("step_retrying"))
    assert (again.step, again.attempt, again.error.reason) == ("late", 1, pb.ERROR_REASON_STEP_TIMEOUT)
    assert 10 <= again.delay.ToMilliseconds() <= 20
    assert {step.step: step.attempts for step in result_of(events).steps}["late"] == 2


async def test_a_retried_run_takes_the_route_that_was_taken_before(opened: OpenSuite) -> None:
    router = {"routes": [{"name": "big", "when": "true"}], "default": "small"}
    edges = [
        {"source": "way", "target": "bad", "route": "big"},
        {"source": "way", "target": "other", "route": "small"},
    ]
    bad = {"name": "bad", "agent": "echo", "output": "result.nothing"}
    nodes = [{"name": "way", "router": router}, bad, echo("other")]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    first = await suite.story("flow")
    retried = await suite.client.runs.retry(first[0].run_id)
    events = await suite.watched(retried.run_id)
    assert states(events) == {"way": "completed", "bad": "failed", "other": "skipped"}
    assert json.loads(events[-1].run_finished.result.steps[0].output_json) == "big"


async def test_a_graph_with_a_waiting_branch_keeps_its_time_over_a_suspension(opened: OpenSuite) -> None:
    inner: dict[str, Any] = {"steps": [{"name": "ask", "ask": {"question": "now?"}}]}
    each = {"items": "[1]", "linear_workflow": "inner", "branch_timeout": "200ms"}
    suite = await opened_with(opened, [{"name": "all", "each": each}], linear_workflows={"inner": inner})
    error = result_of(await suite.story("flow")).error
    assert error.reason == pb.ERROR_REASON_STEP_TIMEOUT
