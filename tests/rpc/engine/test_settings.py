"""What a run runs with, as GetRun shows it: run over agent over llm over defaults, field by field."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from retinue.engine.v1 import run_pb2
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]

BUDGET = {
    "max_tokens": "1000",
    "max_cost_nano_usd": "2000",
    "max_tool_calls": 3,
    "max_turns": 4,
    "max_duration": "5s",
}

DEFAULTS: dict[str, Any] = {
    "llms": [
        {
            "name": "m",
            "model": "scripted",
            "transport": "direct",
            "generation": {},
            "timeout": "120s",
        }
    ],
    "max_iterations": 20,
    "tool_concurrency": 8,
    "include_history": True,
    "budget": {},
    "session_budget": {},
    "max_repairs": 2,
    "stall_after": 5,
    "input_timeout": "86400s",
}

LEVELS: dict[str, tuple[Any, Any, Any]] = {
    # The setting: as the agent has it, as it is shown then, as the run has it and it is shown then.
    "max_iterations": (7, 7, 9),
    "tool_concurrency": (3, 3, 5),
    "timeout": ("90s", "90s", "30.500s"),
    "max_repairs": (0, None, 4),
    "max_context_tokens": (1000, "1000", "2000"),
    "stall_after": (3, 3, None),
    "input_timeout": ("2h", "7200s", "60s"),
    "output_schema_json": ({"type": "object"}, '{"type": "object"}', '{"type":"array"}'),
    "budget": (
        {**BUDGET, "max_tokens": 1000, "max_cost_nano_usd": 2000},
        BUDGET,
        {"max_tokens": "9", "max_duration": "0.250s"},
    ),
    "session_budget": (
        {**BUDGET, "max_tokens": 1000, "max_cost_nano_usd": 2000},
        BUDGET,
        {"max_turns": 9},
    ),
}


async def settings(suite: Suite, agent: str, **options: Any) -> dict[str, Any]:
    """The settings of a run, as JSON has them."""
    given = ParseDict(options, run_pb2.RunOptions())
    run = await suite.client.runs.start(agent, "hi", options=given)
    shown = (await suite.client.runs.get(run.run_id)).settings
    return MessageToDict(shown, preserving_proto_field_name=True)


async def test_where_nothing_is_set_the_defaults_hold(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"system_prompt": "be kind"}})
    assert await settings(suite, "a") == DEFAULTS
    assert await settings(suite, "b") == DEFAULTS | {"system_prompt": "be kind"}


@pytest.mark.parametrize("name", LEVELS)
async def test_the_agents_setting_stands_over_the_default_and_the_runs_over_both(
    opened: OpenSuite, name: str
) -> None:
    of_agent, shown, of_run = LEVELS[name]
    suite = await opened(agents={"b": {name.removesuffix("_json"): of_agent}})
    found = await settings(suite, "b")
    if name.endswith("_json"):
        assert json.loads(found.pop(name)) == of_agent
        assert found == DEFAULTS
    else:
        rest = {key: value for key, value in DEFAULTS.items() if key != name}
        assert found == (rest | {name: shown} if shown is not None else rest)
    if of_run is None:
        return
    merged = shown | of_run if isinstance(of_run, dict) else of_run
    assert (await settings(suite, "b", **{name: of_run}))[name] == merged
    assert (await settings(suite, "a", **{name: of_run}))[name] == of_run


async def test_history_may_be_switched_off_and_on(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"include_history": False}})
    assert "include_history" not in await settings(suite, "b")
    assert "include_history" not in await settings(suite, "a", include_history=False)
    assert (await settings(suite, "b", include_history=True))["include_history"]


async def test_each_llm_is_shown_with_how_it_writes(opened: OpenSuite) -> None:
    suite = await opened(
        llms={
            "first": {
                "model": "big",
                "timeout": "7s",
                "max_retries": 5,
                "api_key": "${env:PATH}",
                "generation": {"temperature": 0.25, "seed": 1, "stop": ["x"]},
            },
            "second": {"transport": "litellm", "generation": {"top_p": 0.5, "max_output_tokens": 10}},
        },
        agents={"b": {"llm": "first", "fallback_llms": ["second"], "generation": {"seed": 2}}},
    )
    first, second = (await settings(suite, "b", generation={"temperature": 0, "stop": ["y", "z"]}))["llms"]
    assert first == {
        "name": "first",
        "model": "big",
        "transport": "direct",
        "generation": {"temperature": 0.0, "seed": "2", "stop": ["y", "z"]},
        "timeout": "7s",
        "max_retries": 5,
    }
    assert second == {
        "name": "second",
        "model": "scripted",
        "transport": "litellm",
        "generation": {
            "temperature": 0.0,
            "top_p": 0.5,
            "max_output_tokens": "10",
            "seed": "2",
            "stop": ["y", "z"],
        },
        "timeout": "120s",
    }
    # Another llm for the run; those to fall back to stay.
    named = (await settings(suite, "b", llm="m"))["llms"]
    assert [each["name"] for each in named] == ["m", "second"]
    assert [each["name"] for each in (await settings(suite, "b", llm="second"))["llms"]] == ["second"]


async def test_lists_and_answers_of_start_leave_the_settings_out(opened: OpenSuite) -> None:
    suite = await opened()
    run = await suite.client.runs.start("a", "hi")
    assert not run.HasField("settings")
    assert not any([each.HasField("settings") async for each in suite.client.runs.list()])
    assert (await suite.client.runs.get(run.run_id)).HasField("settings")
