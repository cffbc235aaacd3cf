"""Settings: each one changes what the model is asked, run over agent over llm."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue.common.v1 import error_pb2
from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2
from tests.suite import Suite, until

OpenSuite = Callable[..., Awaitable[Suite]]

LEVELS: dict[str, tuple[str, Any, Any, Any]] = {
    "temperature": ("temperature", 0.25, 0.5, 0.75),
    "top_p": ("top_p", 0.125, 0.25, 0.5),
    "max_output_tokens": ("max_tokens", 10, 20, 30),
    "seed": ("seed", 1, 2, 3),
    "stop": ("stop", ["x"], ["y", "z"], ["w"]),
}


def generation(**settings: Any) -> run_pb2.RunOptions:
    return run_pb2.RunOptions(generation=llm_pb2.GenerationSettings(**settings))


@pytest.mark.parametrize("name", LEVELS)
async def test_a_generation_setting_goes_to_the_model_run_over_agent_over_llm(
    opened: OpenSuite, name: str
) -> None:
    sent, of_llm, of_agent, of_run = LEVELS[name]
    suite = await opened(
        llms={"set": {"generation": {name: of_llm}}},
        agents={"b": {"llm": "set"}, "c": {"llm": "set", "generation": {name: of_agent}}},
    )
    await suite.story("a")
    assert sent not in suite.model.requests[-1]
    for agent, options, expected in (
        ("b", None, of_llm),
        ("c", None, of_agent),
        ("c", generation(**{name: of_run}), of_run),
        ("a", generation(**{name: of_run}), of_run),
    ):
        await suite.story(agent, options=options)
        assert suite.model.requests[-1][sent] == expected


async def test_zero_is_a_setting_and_not_its_absence(opened: OpenSuite) -> None:
    suite = await opened(
        llms={"set": {"generation": {"temperature": 1.0, "seed": 7}}}, agents={"b": {"llm": "set"}}
    )
    await suite.story("b", options=generation(temperature=0, seed=0))
    assert (suite.model.requests[-1]["temperature"], suite.model.requests[-1]["seed"]) == (0, 0)


async def test_the_model_is_asked_as_the_llm_says(opened: OpenSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", "sk-plain")
    suite = await opened(
        llms={
            "other": {"model": "bigger", "headers": {"X-Team": "red"}, "api_key": "${env:KEY_OF_THE_TEST}"}
        },
        agents={"b": {"llm": "other"}},
    )
    events = await suite.story("b")
    assert suite.model.requests[-1]["model"] == "bigger"
    assert suite.model.headers[-1]["X-Team"] == "red"
    assert suite.model.headers[-1]["Authorization"] == "Bearer sk-plain"
    assert (events[1].turn_started.llm, events[1].turn_started.model) == ("other", "bigger")


async def test_a_run_may_name_another_llm(opened: OpenSuite) -> None:
    suite = await opened(llms={"other": {"model": "bigger", "generation": {"seed": 5}}})
    events = await suite.story(options=run_pb2.RunOptions(llm="other"))
    assert (suite.model.requests[-1]["model"], suite.model.requests[-1]["seed"]) == ("bigger", 5)
    assert [each.name for each in events[0].run_started.dependencies] == ["other"]


async def test_the_system_prompt_stands_before_the_message(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"system_prompt": "Be brief. {{ not a template }}"}})
    await suite.story("b", "{{ 7 * 7 }}")
    assert suite.model.requests[-1]["messages"] == [
        {"role": "system", "content": "Be brief. {{ not a template }}"},
        {"role": "user", "content": "{{ 7 * 7 }}"},
    ]


async def test_history_is_left_out_where_agent_or_run_says_so(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"include_history": False}})

    async def sent(agent: str, include: bool | None) -> int:
        options = run_pb2.RunOptions(include_history=include)
        await suite.story(agent, "hi", session_id="s", options=options)
        return len(suite.model.requests[-1]["messages"])

    assert await sent("a", None) == 1
    assert await sent("b", None) == 1
    assert await sent("b", True) == 5
    assert await sent("a", False) == 1
    assert await sent("a", None) == 9  # what was not shown was kept all the same
    assert len(await suite.messages("s")) == 10


@pytest.mark.parametrize(("agent", "option", "asked"), [(2, None, 2), (5, 3, 3), (None, 1, 1)])
async def test_the_turns_are_limited_by_agent_and_run(
    opened: OpenSuite, agent: int | None, option: int | None, asked: int
) -> None:
    script = {"default": {"text": "on it", "tool_calls": [{"name": "nothing"}]}}
    suite = await opened(script, agents={"b": {"max_iterations": agent} if agent else {}})
    result = await suite.result("b", options=run_pb2.RunOptions(max_iterations=option))
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.error.reason == error_pb2.ERROR_REASON_MAX_ITERATIONS_REACHED
    assert result.error.metadata == {"max_iterations": str(asked)}
    assert (result.turns, result.tool_calls, len(suite.model.requests)) == (asked, asked, asked)
    assert (result.output, result.finish_reason) == ("on it", "tool_calls")


@pytest.mark.parametrize(("agent", "option"), [("300ms", None), ("1h", 0.3), (None, 0.3)])
async def test_the_time_is_limited_by_agent_and_run(
    opened: OpenSuite, agent: str | None, option: float | None
) -> None:
    suite = await opened({"default": {"hang": True}}, agents={"b": {"timeout": agent} if agent else {}})
    timeout = Duration(nanos=int(option * 1e9)) if option else None
    result = await suite.result("b", options=run_pb2.RunOptions(timeout=timeout))
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.error.reason == error_pb2.ERROR_REASON_RUN_TIMEOUT
    assert result.error.metadata == {"timeout_s": "0.3"}
    assert 0.3 <= result.duration.ToMicroseconds() / 1e6 < 3


async def test_a_change_in_the_registry_is_seen_by_the_next_run(opened: OpenSuite) -> None:
    suite = await opened()
    seen = []
    for prompt in ("old", "new", "newest"):
        agent = agent_pb2.AgentSpec(llm="m", system_prompt=prompt)
        kind = component_pb2.COMPONENT_KIND_AGENT
        await suite.client.components.apply([component_pb2.Component(kind=kind, name="b", agent=agent)])

        async def told() -> bool:
            events = await suite.story("b")
            seen.append(events[0].run_started.target.version)
            return bool(suite.model.requests[-1]["messages"][0]["content"] == prompt)  # noqa: B023 - awaited here

        await until(told, f"a run is told {prompt!r}")
        assert await told()
    assert sorted(set(seen)) == [1, 2, 3]
    assert seen == sorted(seen)


async def test_usage_and_cost_are_summed_over_turns(opened: OpenSuite) -> None:
    usage = {"input_tokens": 1000, "output_tokens": 100, "cached_input_tokens": 400, "reasoning_tokens": 30}
    script = {
        "turns": [
            {"tool_calls": [{"name": "nothing"}], "usage": usage},
            {"text": "done", "usage": {"input_tokens": 2000, "output_tokens": 50}},
        ]
    }
    price = {
        "input_nano_usd_per_million": 2_000_000_000,
        "output_nano_usd_per_million": 10_000_000_000,
        "cached_input_nano_usd_per_million": 1_000_000_000,
    }
    suite = await opened(script, llms={"priced": {"price": price}}, agents={"b": {"llm": "priced"}})
    events = await suite.story("b")
    answers = [
        event.message_completed for event in events if event.WhichOneof("event") == "message_completed"
    ]
    first = 600 * 2000 + 400 * 1000 + 100 * 10_000
    second = 2000 * 2000 + 50 * 10_000
    assert [answer.cost.nano_usd for answer in answers] == [first, second]
    result = events[-1].run_finished.result
    assert (result.cost.nano_usd, result.cost.unknown) == (first + second, False)
    total = result.usage
    assert (total.input_tokens, total.output_tokens) == (3000, 150)
    assert (total.cached_input_tokens, total.reasoning_tokens) == (400, 30)
    assert (result.turns, result.tool_calls) == (2, 1)


async def test_what_is_not_known_is_not_zero(opened: OpenSuite) -> None:
    known = {"input_nano_usd_per_million": 1_000_000_000, "output_nano_usd_per_million": 1_000_000_000}
    script = {
        "rules": [{"when": {"user_contains": "silent"}, "text": "x", "no_usage": True}],
        "default": {"text": "x", "usage": {"input_tokens": 10, "output_tokens": 1}},
    }
    suite = await opened(
        script, llms={"priced": {"price": known}, "free": {"price": dict.fromkeys(known, 0)}}
    )
    no_price = await suite.result()
    assert (no_price.cost.nano_usd, no_price.cost.unknown) == (0, True)
    free = await suite.result(options=run_pb2.RunOptions(llm="free"))
    assert (free.cost.nano_usd, free.cost.unknown) == (0, False)
    priced = await suite.result(options=run_pb2.RunOptions(llm="priced"))
    assert (priced.cost.nano_usd, priced.cost.unknown) == (11_000, False)
    silent = await suite.story(message="silent", options=run_pb2.RunOptions(llm="priced"))
    assert silent[-1].run_finished.result.cost.unknown
    assert not silent[-2].message_completed.HasField("usage")


async def test_a_price_of_litellms_table_counts_where_none_is_configured(opened: OpenSuite) -> None:
    usage = {"input_tokens": 1_000_000, "output_tokens": 0}
    suite = await opened({"default": {"text": "x", "usage": usage}}, llms={"known": {"model": "gpt-4o-mini"}})
    result = await suite.result(options=run_pb2.RunOptions(llm="known"))
    assert not result.cost.unknown
    assert result.cost.nano_usd > 0
