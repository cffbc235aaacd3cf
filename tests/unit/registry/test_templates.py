"""System prompts with variables: what is a template, what it may hold, and which names there may be."""

from typing import Any

import pytest

from retinue_kit.template_syntax import MAX_TEMPLATE_CHARACTERS, MAX_TOKENS
from retinue_registry.validation import check_spec, field_text


def faults(prompt: str | None, variables: dict[Any, Any]) -> list[tuple[str, str]]:
    given = {"llm": "a", "variables": variables, **({} if prompt is None else {"system_prompt": prompt})}
    _, broken = check_spec("agent", given)
    return [(field_text(each.place), each.message) for each in broken]


def test_without_variables_a_prompt_is_plain_text() -> None:
    assert check_spec("agent", {"llm": "a", "system_prompt": "Write {{ and {% if %} in Jinja."})[1] == []
    assert faults("{{", {}) == []


@pytest.mark.parametrize(
    "prompt",
    [
        "Help {{ name }}.",
        "{% if name == 'Ann' %}Hello{% else %}Who?{% endif %}",
        "{% for word in name.split() %}{{ loop.index }}. {{ word | upper }}\n{% endfor %}",
        "{% set who = name | default('you') %}{{ who }} and {{ what_a_run_sets }}",
        "{# a note #}{% raw %}{{ not.this }}{% endraw %}{{ name }}",
    ],
)
def test_a_template_is_taken(prompt: str) -> None:
    assert faults(prompt, {"name": "x"}) == []


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("Hi {{ name }", "line 1 of the template: unexpected '}'"),
        ("Hi\n\n{% if name %}", "line 3 of the template: Unexpected end of template"),
        ("{{ name }}\n{% fro x in name %}", "line 2 of the template: Encountered unknown tag 'fro'"),
        ("{{ name | attr('x') }}", "line 1 of the template: No filter named 'attr'"),
        ("{{ name }}{% include 'x' %}", "{% include %} has no place here"),
        ("{{ name }}{% macro f() %}{% endmacro %}", "{% macro %} has no place here"),
        ("{% for x in name recursive %}{% endfor %}", "must not be recursive"),
        ("{{ name }}" * MAX_TOKENS, f"more than {MAX_TOKENS} words and signs"),
        ("{{ name }}" + "x" * MAX_TEMPLATE_CHARACTERS, f"at most {MAX_TEMPLATE_CHARACTERS} characters"),
        ("{{" + "(" * 1500 + "name" + ")" * 1500 + "}}", "nested too deeply"),
        ("{% if name %}" * 150 + "{% endif %}" * 150, "nested too deeply"),
    ],
)
def test_what_is_no_template_is_refused_with_its_line(prompt: str, said: str) -> None:
    ((field, message),) = faults(prompt, {"name": "x"})
    assert field == "system_prompt"
    assert said in message


def test_nothing_is_worked_out_when_a_template_is_checked() -> None:
    huge = "{{ 'a' * 10**12 }}{{ 'a' | indent(10**12) }}{{ 9**9**9**9 }}{% if 'a' * 10**12 %}{% endif %}"
    assert faults(huge + "{{ name }}", {"name": "x"}) == []
    ((_, message),) = faults("{% autoescape 'a' * 10**12 %}{% endautoescape %}{{ name }}", {"name": "x"})
    assert "{% autoescape %} has no place here" in message


def test_a_variable_that_nothing_asks_for_is_refused_with_the_nearest() -> None:
    said = "stands nowhere in system_prompt; did you mean name?"
    assert faults("Help {{ name }}.", {"nmae": "x"}) == [("variables.nmae", said)]
    assert faults("Help name.", {"name": "x"}) == [("variables.name", "stands nowhere in system_prompt")]
    assert faults(None, {"name": "x"}) == [("variables", "need a system_prompt in which they stand")]


@pytest.mark.parametrize("name", ["1a", "a-b", "a.b", "", "é", "a" * 65, "not", "true", "None", "self"])
def test_a_name_that_a_template_cannot_ask_for_is_refused(name: str) -> None:
    ((field, message),) = faults("Help.", {name: "x"})
    assert field == f"variables.{name}"
    assert "cannot be a variable" in message


def test_variables_are_texts_and_at_most_64() -> None:
    names = [f"v{n}" for n in range(65)]
    prompt = "".join(f"{{{{ {name} }}}}" for name in names)
    assert faults(prompt, dict.fromkeys(names[:64], "x")) == []
    assert faults(prompt, dict.fromkeys(names, "x"))[0][1].startswith("must have at most 64 items")
    assert faults(prompt, {"v1": 3}) == [("variables.v1", "must be text, and 3 is not: put it in quotes")]
    assert "only allowed in secret fields" in faults(prompt, {"v1": "${env:X}"})[0][1]
