"""Variables of a system prompt: filled in as data, and refused where one is missing."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from retinue.errors import InvalidArgumentError
from tests.suite import Suite, check_tree, open_processes, until

OpenSuite = Callable[..., Awaitable[Suite]]

GREETER = {"system_prompt": "Greet {{ name }} in {{ language }}.", "variables": {"language": "German"}}


def given(**variables: str) -> run_pb2.RunOptions:
    return run_pb2.RunOptions(variables=variables)


def prompt(suite: Suite) -> str:
    """The system prompt that the model was sent last."""
    first = suite.model.requests[-1]["messages"][0]
    assert first["role"] == "system"
    return str(first["content"])


async def test_variables_of_the_run_stand_over_those_of_the_agent(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": GREETER})
    await suite.story("b", options=given(name="Ada"))
    assert prompt(suite) == "Greet Ada in German."
    events = await suite.story("b", options=given(name="Ada", language="Norsk", more="unused"))
    assert prompt(suite) == "Greet Ada in Norsk."
    run = await suite.client.runs.get(events[0].run_id)
    assert run.settings.system_prompt == "Greet Ada in Norsk."


async def test_a_template_may_choose_and_repeat(opened: OpenSuite) -> None:
    names = "{% for each in names.split(',') %}- {{ each | trim | upper }}\n{% endfor %}"
    suite = await opened(agents={"b": {"system_prompt": names + "{% if calm %}Be calm.{% endif %}"}})
    await suite.story("b", options=given(names="ada, bob", calm="yes"))
    assert prompt(suite) == "- ADA\n- BOB\nBe calm."


async def test_a_run_that_lacks_a_variable_is_refused_and_told_which(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": GREETER})
    for options in (None, given(nam="Ada")):
        with pytest.raises(InvalidArgumentError) as refused:
            await suite.client.runs.start("b", "hi", options=options)
        (violation,) = refused.value.violations
        assert violation.field == "run.options.variables"
        assert "'name'" in violation.description
    assert [run async for run in suite.client.runs.list()] == []


async def test_what_looks_like_a_template_in_a_value_is_text(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": GREETER})
    values = given(name="{{ language }} {% if %} {# x", language="<b>&'\"{{ 7 * 7 }}")
    await suite.story("b", options=values)
    assert prompt(suite) == "Greet {{ language }} {% if %} {# x in <b>&'\"{{ 7 * 7 }}."


async def test_a_prompt_without_variables_is_no_template(opened: OpenSuite) -> None:
    text = "Write {{ name }} and {% raw %} as they are. "
    suite = await opened(agents={"b": {"system_prompt": text}})
    await suite.story("b")
    assert prompt(suite) == text


async def test_a_template_that_cannot_be_filled_in_is_refused(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"system_prompt": "{{ n * 100000 }}", "variables": {"n": "1"}}})
    for value in ("x" * 10, "x" * 1000):
        with pytest.raises(InvalidArgumentError) as refused:
            await suite.client.runs.start("b", "hi", options=given(n=value))
        assert refused.value.violations[0].field == "agent.system_prompt"
    with pytest.raises(InvalidArgumentError) as many:
        await suite.client.runs.start("b", "hi", options=given(**{f"v{n}": "" for n in range(65)}))
    assert [each.field for each in many.value.violations] == ["run.options.variables"]


async def test_a_child_takes_those_of_the_runs_variables_that_it_knows(opened: OpenSuite) -> None:
    rules = [
        {
            "when": {"system_contains": "boss", "turn": 1},
            "tool_calls": [{"name": "greeter", "arguments": {"message": "go"}}],
        },
        {"when": {"system_contains": "boss"}, "text": "done"},
    ]
    greeter = {"system_prompt": "Speak {{ language }}.", "variables": {"language": "German"}}
    plain = {"system_prompt": "I am plain: {{ language }}."}
    agents = {
        "boss": {"system_prompt": "boss of {{ name }}", "agents": ["greeter", "plain"]},
        "greeter": greeter,
        "plain": plain,
    }
    rules[0]["tool_calls"].append({"name": "plain", "arguments": {"message": "go"}})  # type: ignore[attr-defined]
    suite = await opened({"rules": rules, "default": {"text": "hallo"}}, agents=agents)
    events = await suite.story("boss", options=given(name="all", language="Norsk"))
    check_tree(events)
    prompts = {each["messages"][0]["content"] for each in suite.model.requests}
    assert prompts == {"boss of all", "Speak Norsk.", "I am plain: {{ language }}."}


async def test_a_child_whose_prompt_cannot_be_filled_in_is_known_before_the_run_is(opened: OpenSuite) -> None:
    greeter = {"system_prompt": "{{ 'x' * n | int }}", "variables": {"n": "1"}}
    suite = await opened(agents={"boss": {"agents": ["greeter"]}, "greeter": greeter})
    with pytest.raises(InvalidArgumentError):
        await suite.client.runs.start("boss", "hi", options=given(n="99999999"))
    assert (await suite.result("boss")).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_restart_keeps_what_a_run_was_told(tmp_path: Path) -> None:
    script = {"rules": [{"when": {"turn": 1}, "times": 1, "hang": True}], "default": {"text": "ok"}}
    async with open_processes(tmp_path, script, agents={"b": GREETER}) as suite:
        run = await suite.client.runs.start("b", "hi", options=given(name="Ada"))
        await until(lambda: suite.model.requests, "the model is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        assert prompt(suite) == "Greet Ada in German."
