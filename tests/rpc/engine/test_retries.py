"""LLM calls that fail: made again where that may help, handed to the next llm where it does not."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import SecretNotFoundError
from tests.suite import Model, Suite, check_story, kinds, open_suite

OpenSuite = Callable[..., Awaitable[Suite]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retinue_engine.agent.model_calls.FIRST_WAIT_S", 0.01)


def discarded(events: list[event_pb2.RunEvent]) -> list[event_pb2.MessageDiscarded]:
    return [e.message_discarded for e in events if e.WhichOneof("event") == "message_discarded"]


def asked(events: list[event_pb2.RunEvent]) -> list[str]:
    """The llms that were asked, in order."""
    return [e.turn_started.llm for e in events if e.WhichOneof("event") == "turn_started"]


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"status": 500}},
        {"error": {"status": 429}},
        {"garbage": "<html>"},
        {"text": "half of an answer", "chunk_size": 4, "cut": 2},
    ],
    ids=["500", "429", "garbage", "cut"],
)
async def test_a_call_that_failed_for_a_passing_reason_is_made_again(
    opened: OpenSuite, failure: dict[str, Any]
) -> None:
    script = {"rules": [{**failure, "times": 2}], "default": {"text": "at last"}}
    suite = await opened(script, llms={"again": {"max_retries": 2}}, agents={"b": {"llm": "again"}})
    events = await suite.story("b")
    check_story(events)
    result = events[-1].run_finished.result
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "at last")
    assert (result.retries, result.turns) == (2, 1)
    # Each says which text it replaces, why, and who is asked next.
    turns = [e.sequence for e in events if e.WhichOneof("event") == "turn_started"]
    assert [each.from_sequence for each in discarded(events)] == turns[:2]
    assert all(each.error.reason and each.reason and each.next_llm == "again" for each in discarded(events))
    assert [each["role"] for each in await suite.messages(events[0].run_started.session_id)] == [
        "user",
        "assistant",
    ]


async def test_no_more_retries_are_made_than_allowed(opened: OpenSuite) -> None:
    suite = await opened(
        {"default": {"error": {"status": 503}}},
        llms={"again": {"max_retries": 3}},
        agents={"b": {"llm": "again"}},
    )
    result = await suite.result("b")
    assert result.error.reason == pb.ERROR_REASON_LLM_UNAVAILABLE
    assert (result.retries, len(suite.model.requests)) == (3, 4)


async def test_what_cannot_pass_is_not_tried_again(opened: OpenSuite) -> None:
    suite = await opened(
        {"default": {"error": {"status": 401}}},
        llms={"again": {"max_retries": 3}},
        agents={"b": {"llm": "again"}},
    )
    result = await suite.result("b")
    assert result.error.reason == pb.ERROR_REASON_LLM_UNAUTHENTICATED
    assert (result.retries, len(suite.model.requests)) == (0, 1)


async def test_as_much_patience_is_had_as_the_provider_asks_for(opened: OpenSuite) -> None:
    script = {
        "rules": [{"error": {"status": 429, "retry_after": 1}, "times": 1}],
        "default": {"text": "now"},
    }
    suite = await opened(script, llms={"again": {"max_retries": 1}}, agents={"b": {"llm": "again"}})
    events = await suite.story("b")
    (replaced,) = discarded(events)
    assert replaced.delay.ToMilliseconds() == 1000
    retried = next(e for e in events if e.sequence == replaced.from_sequence + 2)
    assert retried.time.ToMilliseconds() - events[1].time.ToMilliseconds() >= 1000


async def test_more_patience_than_a_run_has_is_a_failure_for_good(opened: OpenSuite) -> None:
    script = {"default": {"error": {"status": 429, "retry_after": 3600}}}
    suite = await opened(script, llms={"again": {"max_retries": 5}}, agents={"b": {"llm": "again"}})
    result = await suite.result("b")
    assert result.error.reason == pb.ERROR_REASON_LLM_RATE_LIMITED
    assert result.retries == 0


async def test_the_next_llm_is_asked_where_one_fails_for_good_and_each_turn_begins_with_the_first(
    opened: OpenSuite,
) -> None:
    script = {
        "rules": [{"when": {"model": "bad"}, "error": {"status": 401}}],
        "turns": [{"tool_calls": [{"name": "none"}]}, {"text": "from the last"}],
    }
    llms = {"first": {"model": "bad"}, "second": {"model": "bad"}, "third": {"model": "good"}}
    agents = {"b": {"llm": "first", "fallback_llms": ["second", "third"]}}
    suite = await opened(script, llms=llms, agents=agents)
    events = await suite.story("b")
    check_story(events)
    assert asked(events) == ["first", "second", "third"] * 2
    assert [each.next_llm for each in discarded(events)] == ["second", "third"] * 2
    result = events[-1].run_finished.result
    assert (result.output, result.retries, result.turns) == ("from the last", 4, 2)


async def test_a_fallback_writes_and_costs_as_its_own_settings_say(opened: OpenSuite) -> None:
    script = {
        "rules": [{"when": {"model": "bad"}, "error": {"status": 400}}],
        "default": {"text": "ok", "usage": {"input_tokens": 1_000_000, "output_tokens": 0}},
    }
    llms = {
        "first": {
            "model": "bad",
            "generation": {"temperature": 0.1},
            "price": {"input_nano_usd_per_million": 5},
        },
        "second": {"generation": {"temperature": 0.9}, "price": {"input_nano_usd_per_million": 7}},
    }
    suite = await opened(script, llms=llms, agents={"b": {"llm": "first", "fallback_llms": ["second"]}})
    result = await suite.result("b")
    assert [each["temperature"] for each in suite.model.requests] == [0.1, 0.9]
    assert result.cost.nano_usd == 7


async def test_a_fallback_whose_key_is_missing_is_told_at_the_start(opened: OpenSuite) -> None:
    llms = {"second": {"api_key": "${env:NOT_SET_ANYWHERE}"}}
    suite = await opened(llms=llms, agents={"b": {"fallback_llms": ["second"]}})
    with pytest.raises(SecretNotFoundError, match="NOT_SET_ANYWHERE"):
        await suite.client.runs.start("b", "hi")


async def test_a_cancelled_run_does_not_wait_for_its_next_try(opened: OpenSuite) -> None:
    script = {"default": {"error": {"status": 429, "retry_after": 50}}}
    suite = await opened(script, llms={"again": {"max_retries": 5}}, agents={"b": {"llm": "again"}})
    run = await suite.client.runs.start("b", "hi")
    async for event in suite.client.runs.watch(run.run_id):
        if event.HasField("message_discarded"):
            await suite.client.runs.cancel(run.run_id)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED


async def test_a_run_that_is_taken_up_again_goes_on_with_the_try_at_which_it_stood(tmp_path: Path) -> None:
    script = {"default": {"error": {"status": 429, "retry_after": 50}}}
    async with Model().open(script) as model:
        port = int(model.base_url.rpartition(":")[2].partition("/")[0])
        llms = {"again": {"base_url": model.base_url, "max_retries": 1}}
        async with open_suite(tmp_path, llms=llms, agents={"b": {"llm": "again"}}) as suite:
            run = await suite.client.runs.start("b", "hi")
            async for event in suite.client.runs.watch(run.run_id):
                if event.HasField("message_discarded"):
                    break
    async with Model().open({"default": {"error": {"status": 503}}}, port), open_suite(tmp_path) as suite:
        ended = await suite.ended(run.run_id)
        check_story(await suite.watched(run.run_id))
    # One retry was allowed, and it was begun before: there is none left.
    assert (ended.state, ended.result.retries) == (run_pb2.RUN_STATE_FAILED, 1)
    assert ended.result.error.reason == pb.ERROR_REASON_LLM_UNAVAILABLE


async def test_an_llm_that_comes_back_is_found_by_a_retry(opened: OpenSuite) -> None:
    async with Model().open({"default": {"text": "here"}}) as other:
        address = other.base_url
        port = int(address.rpartition(":")[2].partition("/")[0])
    suite = await opened(
        llms={"away": {"base_url": address, "max_retries": 20}}, agents={"b": {"llm": "away"}}
    )
    run = await suite.client.runs.start("b", "hi")
    told = suite.client.runs.watch(run.run_id)
    seen = []
    async for event in told:
        seen.append(event)
        if event.HasField("message_discarded"):
            break
    async with Model().open({"default": {"text": "here"}}, port):
        assert (await suite.ended(run.run_id)).result.output == "here"
    assert kinds(seen)[-1] == "message_discarded"
