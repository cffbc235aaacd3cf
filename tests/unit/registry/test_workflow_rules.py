"""What is wrong with a workflow is found when it is stored, all at once and where it stands."""

from typing import Any

import pytest

from retinue_registry.validation import check_spec, field_text

A = {"name": "a", "agent": "x"}
B = {"name": "b", "agent": "x"}


def said(kind: str, spec: dict[str, Any]) -> list[str]:
    _, broken = check_spec(kind, spec)
    return [f"{field_text(each.place)}: {each.message}" for each in broken]


def edge(source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"source": source, "target": target, **more}


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([], "steps: must have at least 1"),
        ([{"name": "a"}], "steps[0]: runs nothing: set one of agent"),
        ([{**A, "linear_workflow": "y"}], "steps[0].linear_workflow: has agent and linear_workflow"),
        ([A, A], "steps[1].name: 'a' is the name of an earlier step"),
        ([{"name": "a b", "agent": "x"}], "steps[0].name: 'a b' cannot be a step's name"),
        ([{**A, "input": "{{ steps.b.output }}"}, B], "steps[0].input: names the step 'b'"),
        ([{**A, "input": "{{ inptu }}"}], "did you mean input?"),
        ([{**A, "input": "{% for %}"}], "steps[0].input: line 1 of the template"),
        (
            [A, {**B, "condition": "steps.a.output >"}],
            "is no CEL expression: line 1, column 17: it ends too early",
        ),
        ([A, {**B, "condition": "input ? 'x'"}], "is no CEL expression: line 1, column 1: it ends too early"),
        (
            [A, {**B, "condition": "input || && 'x'"}],
            "steps[1].condition: is no CEL expression: line 1, column 10",
        ),
        ([A, {**B, "condition": "steps.aa.output"}], "steps[1].condition: names the step 'aa'"),
        ([{**A, "condition": "x.map(i, i.map(j, j))"}], "inside one another"),
        ([{**A, "condition": "(" * 500 + "true" + ")" * 500}], "steps[0].condition: is nested too deeply"),
        ([{**A, "condition": "'" + "x" * 3000 + "' == input"}], "must have at most 2048 bytes"),
        ([{**A, "on_error": "fallback"}], "steps[0].on_error: must be fallback where there is a fallback"),
        ([{**A, "join": {"mode": "any"}}], "steps[0].join: is for nodes of a graph"),
        ([{**A, "retry": {"errors": ["timeout"]}}], "'timeout' is not a reason"),
        (
            [{"name": "t", "tool": {"server": "s", "tool": "t", "arguments": {"x": ["{{ nope }}"]}}}],
            "steps[0].tool.arguments.x[0]: names 'nope'",
        ),
        ([{"name": "t", "transform": {}}], "steps[0].transform: runs nothing: set one of expression"),
        (
            [{"name": "r", "router": {"routes": [{"name": "x"}], "default": "x"}}],
            "steps[0].router.routes[0].when: is needed where no agent chooses",
        ),
        (
            [{"name": "r", "router": {"routes": [{"name": "x"}], "default": "y", "agent": "z"}}],
            "steps[0].router.default: must be one of the routes",
        ),
        (
            [{"name": "e", "each": {"items": "item", "agent": "x"}}],
            "steps[0].each.items: names 'item'",
        ),
        ([{"name": "l", "loop": {"agent": "x"}}], "steps[0].loop.until: is missing"),
    ],
)
def test_a_linear_workflow_that_breaks_a_rule_is_told_where(steps: list[Any], told: str) -> None:
    found = said("linear_workflow", {"steps": steps})
    assert any(told in each for each in found), found


@pytest.mark.parametrize(
    ("nodes", "edges", "told"),
    [
        ([A, B], [edge("a", "c")], "edges[0].target: there is no node 'c'"),
        ([A, B], [edge("a", "b"), edge("b", "a")], "edges: lead in a circle"),
        ([A, A], [], "nodes[1].name: 'a' is the name of an earlier node"),
        ([A, {**B, "input": "{{ steps.a.output }}"}], [], "nodes[1].input: names the step 'a'"),
        ([A, B], [edge("a", "b", when="steps.b.output")], "edges[0].when: names the step 'b'"),
        ([A, B], [edge("a", "b", route="x")], "edges[0].route: is for edges that lead from a router"),
        ([A, {**B, "join": {"mode": "any"}}], [edge("a", "b")], "nodes[1].join: joins nothing"),
        (
            [A, B, {"name": "c", "agent": "x", "join": {"mode": "quorum", "quorum": 3}}],
            [edge("a", "c"), edge("b", "c")],
            "nodes[2].join.quorum: can never be met",
        ),
        (
            [{"name": "r", "router": {"routes": [{"name": "x", "when": "true"}], "default": "y"}}, B],
            [edge("r", "b", route="x")],
            "edges: none leads from the router 'r' by its default route 'y'",
        ),
        (
            [{"name": "r", "router": {"routes": [{"name": "x", "when": "true"}], "default": "x"}}, B],
            [edge("r", "b")],
            "edges[0].route: is missing",
        ),
        (
            [{"name": "r", "router": {"routes": [{"name": "big", "when": "true"}], "default": "big"}}, B],
            [edge("r", "b", route="bgi")],
            "did you mean big?",
        ),
    ],
)
def test_a_graph_that_breaks_a_rule_is_told_where(nodes: list[Any], edges: list[Any], told: str) -> None:
    found = said("graph_workflow", {"nodes": nodes, "edges": edges})
    assert any(told in each for each in found), found


R = {
    "name": "r",
    "router": {"routes": [{"name": each, "when": "true"} for each in "xy"], "default": "x"},
}
F = {"name": "f", "fail": {"message": "no"}}
BY_ROUTES = [edge("r", "a", route="x"), edge("r", "b", route="y")]


def joins(mode: str, **more: Any) -> dict[str, Any]:
    return {"name": "end", "agent": "x", "join": {"mode": mode, **more}}


@pytest.mark.parametrize(
    ("nodes", "edges", "told"),
    [
        (
            [F, B],
            [edge("f", "b")],
            "nodes[1]: can never be reached: f fails, and what leads here wants a success",
        ),
        (
            [R, A, B, joins("all")],
            [*BY_ROUTES, edge("a", "end"), edge("b", "end", after="always")],
            "nodes[3].join: can never be met: it needs 2 edges, and at most 1 of them are taken, as r",
        ),
        (
            [A, B, joins("all")],
            [edge("a", "b"), edge("a", "end", after="failure"), edge("b", "end")],
            "nodes[2].join: can never be met",
        ),
        (
            [R, A, B, {**A, "name": "c"}, joins("quorum", quorum=2)],
            [
                *BY_ROUTES,
                edge("a", "c"),
                edge("c", "end"),
                edge("b", "end"),
                edge("r", "end", after="failure"),
            ],
            "nodes[4].join: can never be met: it needs 2 edges, and at most 1",
        ),
        (
            [F, A, joins("all")],
            [edge("f", "end"), edge("a", "end")],
            "nodes[2].join: can never be met: it needs 2 edges, and at most 1 of them are taken",
        ),
    ],
)
def test_a_node_that_nothing_can_lead_to_is_told(nodes: list[Any], edges: list[Any], told: str) -> None:
    found = said("graph_workflow", {"nodes": nodes, "edges": edges})
    assert len(found) == 1, found
    assert told in found[0]


@pytest.mark.parametrize(
    ("nodes", "edges"),
    [
        ([{**F, "on_error": "fallback", "fallback": {"agent": "x"}}, B], [edge("f", "b")]),
        ([F, B], [edge("f", "b", after="failure")]),
        ([R, A, B, joins("any")], [*BY_ROUTES, edge("a", "end"), edge("b", "end")]),
        ([R, A, B, joins("quorum", quorum=2), {**A, "name": "c"}],
         [*BY_ROUTES, edge("a", "end"), edge("b", "end"), edge("c", "end")]),
        ([A, B, joins("all")],
         [edge("a", "b", after="always"), edge("a", "end", after="failure"), edge("b", "end")]),
        ([A, {**A, "name": "s"}, {**B, "join": {"mode": "all"}}, joins("all")],
         [edge("a", "b"), edge("s", "b"), edge("b", "end", after="failure"),
          edge("a", "end", after="failure")]),
    ],
)  # fmt: skip
def test_a_node_that_something_may_lead_to_is_right(nodes: list[Any], edges: list[Any]) -> None:
    assert not said("graph_workflow", {"nodes": nodes, "edges": edges})


def test_a_graph_as_large_as_may_be_in_which_all_ends_part_is_looked_at() -> None:
    names = [f"n{number}" for number in range(1000)]
    ends = ("success", "failure", "always")
    edges = [
        edge(names[number], names[number + far], after=ends[far % 3])
        for number in range(990)
        for far in (1, 2, 3, 5)
    ]
    assert not said(
        "graph_workflow", {"nodes": [{"name": name, "agent": "x"} for name in names], "edges": edges}
    )


def test_500_nested_blocks_of_a_template_are_an_error_and_no_crash() -> None:
    text = "{% if input %}" * 500 + "x" + "{% endif %}" * 500
    found = said("linear_workflow", {"steps": [{**A, "input": text}]})
    assert any("nested too deeply" in each or "words and signs" in each for each in found), found
