"""What a workflow names of an input or an answer whose schema is declared must stand in that schema."""

from typing import Any

import pytest

from retinue_kit.expressions import named_paths
from retinue_registry.component import ApiSource, Draft, Key
from retinue_registry.mismatches import mismatches
from retinue_registry.models.template import template_paths
from retinue_registry.validation import check_spec, field_text

ANSWER = {"type": "object", "properties": {"score": {"type": "number"}, "who": {"properties": {"name": {}}}}}
NEXT = {"name": "next"}
INPUT = {"type": "object", "properties": {"city": {"type": "string"}}}


def said(*steps: dict[str, Any], kind: str = "linear_workflow", **spec: Any) -> list[str]:
    parts = "steps" if kind == "linear_workflow" else "nodes"
    judged = {"name": "judge", "agent": "judge"}
    known, broken = check_spec(kind, {parts: [judged, *steps], "input_schema": INPUT, **spec})
    assert known, broken
    draft = Draft(Key("default", kind, "flow"), {}, known, ApiSource(), "flow")
    answers = {Key("default", "agent", "judge"): {"output_schema": ANSWER}}
    return [f"{field_text(place)}: {message}" for place, message in mismatches(draft, answers.get)]


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (
            {"input": "{{ input.citty }}"},
            "steps[1].input: names input.citty, and the workflow's input_schema",
        ),
        ({"input": "{{ input['citty'].upper() }}"}, "declares city; did you mean city?"),
        ({"condition": "input.town == 'x'"}, "steps[1].condition: names input.town"),
        (
            {"condition": "steps.judge.output.scor > 1.0"},
            "the agent judge's output_schema declares score, who",
        ),
        ({"condition": "steps.judge.output.who.age > 1"}, "names steps.judge.output.who.age"),
        ({"set": {"x": "size(input.town)"}}, "steps[1].set.x: names input.town"),
        (
            {"tool": {"server": "s", "tool": "t", "arguments": {"output": ["{{ input.town }}"]}}},
            "tool.arguments.output[0]: names input.town",
        ),
        ({"each": {"items": "input.towns", "agent": "x"}}, "each.items: names input.towns"),
    ],
)
def test_a_name_that_the_schema_lacks_is_told_with_those_that_it_has(step: dict[str, Any], told: str) -> None:
    found = said(NEXT | step if step.keys() & {"tool", "each"} else NEXT | {"agent": "x"} | step)
    assert len(found) == 1, found
    assert told in found[0]


@pytest.mark.parametrize(
    "step",
    [
        {"input": "{{ input.city.upper() }} {{ steps.judge.output.who.name }} {{ steps.judge.state }}"},
        {"condition": "steps.judge.output.score > 1.0 && input.city.startsWith('B') && 'input.town' != ''"},
        {"condition": "state.town == run.id"},
        {"output": "result.text", "set": {"city": "input.city"}},
    ],
)
def test_what_is_declared_or_has_no_schema_is_right(step: dict[str, Any]) -> None:
    assert not said({**NEXT, "agent": "x", **step})


def test_the_answer_of_a_step_that_makes_its_own_output_or_has_a_fallback_is_not_known() -> None:
    for more in ({"output": "result.text"}, {"on_error": "fallback", "fallback": {"agent": "x"}}):
        first = {"name": "other", "agent": "judge", **more}
        assert not said(first, {**NEXT, "agent": "x", "condition": "steps.other.output.no"})


@pytest.mark.parametrize(
    "more",
    [
        {"additionalProperties": True},
        {"anyOf": [{}]},
        {"properties": {}, "$ref": "#/$defs/any", "$defs": {"any": {}}},
    ],
)
def test_a_schema_that_leaves_more_open_declares_nothing(more: dict[str, Any]) -> None:
    assert not said({**NEXT, "agent": "x", "input": "{{ input.town }}"}, input_schema={**INPUT, **more})


def test_the_edges_and_the_output_of_a_graph_are_looked_at_too() -> None:
    edges = [{"source": "judge", "target": "next", "when": "steps.judge.output.sure"}]
    found = said({**NEXT, "agent": "x"}, kind="graph_workflow", edges=edges, output="steps.judge.output.no")
    assert [each.partition(":")[0] for each in sorted(found)] == ["edges[0].when", "output"]


def test_paths_end_where_a_function_is_called_or_a_part_is_worked_out() -> None:
    assert named_paths("steps.a.output.x.size() > input[y.z] || has(state.b)") == {
        ("steps", "a", "output", "x"), ("input",), ("y", "z"), ("state", "b"),
    }  # fmt: skip
    assert template_paths("{{ a.b['c'].d() }} {{ e[f.g] }}") == {("a", "b", "c"), ("a", "b"), ("f", "g")}
