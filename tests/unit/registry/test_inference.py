"""What a step names without its kind has the kind of the one component of that name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from retinue_registry.files.anchors import Roots
from retinue_registry.files.layers import Layers, load_layers
from retinue_registry.validation import check_spec, field_text

PROJECT: dict[str, Any] = {
    "llms": {"m": {"model": "m"}},
    "mcp_servers": {"time": {"stdio": {"command": "c"}}},
    "agents": {"writer": {"llm": "m"}, "report": {"llm": "m"}},
    "linear_workflows": {"report": {"steps": [{"name": "a", "agent": "writer"}]}},
}


def load(root: Path, *steps: dict[str, Any], **more: Any) -> Layers:
    flow = {"nodes": [{"name": f"s{number}", **step} for number, step in enumerate(steps)]}
    (root / "retinue.yaml").write_text(yaml.safe_dump({**PROJECT, "graph_workflows": {"flow": flow}} | more))
    return load_layers(Roots(root / "retinue.yaml"))


def told(layers: Layers) -> list[str]:
    return [f"{problem.field}: {problem.message}" for problem in layers.problems]


def test_a_name_gets_the_kind_of_the_one_component_that_has_it_wherever_it_stands(tmp_path: Path) -> None:
    tool = {"server": "time", "tool": "get/now", "arguments": {"zone": "{{ item }}"}}
    named = {"run": "time/get/now", "arguments": {"zone": "{{ item }}"}}
    layers = load(
        tmp_path,
        {"run": "writer", "input": "x"},
        {"each": {"items": "[1]", **named}},
        {"loop": {"run": "writer", "until": "true"}},
        {"failover": {"choices": [{"run": "writer"}, {"run": "time/get"}]}},
        {"run": "writer", "on_error": "fallback", "fallback": {"run": "time/get"}},
    )
    assert told(layers) == []
    (flow,) = (draft for file in layers.files for draft in file.drafts if draft.key.name == "flow")
    nodes = [
        {name: value for name, value in node.items() if name not in ("name", "on_error")}
        for node in flow.spec.model_dump(exclude_none=True)["nodes"]
    ]
    plain = {"tool": {"server": "time", "tool": "get"}}
    assert nodes == [
        {"agent": "writer", "input": "x"},
        {"each": {"items": "[1]", "tool": tool}},
        {"loop": {"agent": "writer", "until": "true"}},
        {"failover": {"choices": [{"agent": "writer"}, plain]}},
        {"agent": "writer", "fallback": plain},
    ]


def test_a_name_that_several_have_is_an_error_that_lists_them(tmp_path: Path) -> None:
    (problem,) = told(load(tmp_path, {"run": "report"}))
    assert problem.startswith("graph_workflows.flow.nodes[0].run: 'report' could be agent/report and ")
    assert "linear_workflow/report" in problem


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wirter", "wirter'; did you mean writer?"),
        ("tmie/now", "there is no mcp_server 'tmie'; did you mean time?"),
        ("m", "there is no agent or linear_workflow"),
    ],
)
def test_a_name_that_nothing_has_is_an_error_with_the_nearest(tmp_path: Path, name: str, said: str) -> None:
    (problem,) = told(load(tmp_path, {"run": name}))
    assert said in problem


def test_a_circle_through_a_name_without_a_kind_is_found(tmp_path: Path) -> None:
    other = {"other": {"steps": [{"name": "a", "run": "flow"}]}}
    found = told(load(tmp_path, {"run": "other"}, linear_workflows=other))
    assert any("leads back to" in each for each in found), found


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"run": "no name"}, "steps[0].run: 'no name' names nothing that could run"),
        ({"run": "a", "agent": "a"}, "steps[0].run: has agent and run: set one of them"),
        ({"run": "a", "arguments": {}}, "steps[0].arguments: is for `run: SERVER/TOOL`"),
        ({"run": "a/b", "input": "x"}, "steps[0].input: is for agents and workflows"),
        ({"run": "a/b", "arguments": {"x": "{{ nope }}"}}, "steps[0].arguments.x: names 'nope'"),
    ],
)
def test_what_does_not_go_with_a_name_is_told(step: dict[str, Any], said: str) -> None:
    _, broken = check_spec("linear_workflow", {"steps": [{"name": "s", **step}]})
    found = [f"{field_text(each.place)}: {each.message}" for each in broken]
    assert any(said in each for each in found), found


GRAPHS: dict[str, dict[str, Any]] = {
    "sequential": {
        "nodes": [
            {"name": "writer", "agent": "writer"},
            {"name": "writer_2", "agent": "writer"},
            {"name": "_2nd_one", "agent": "2nd-one"},
        ],
        "edges": [
            {"source": "writer", "target": "writer_2"},
            {"source": "writer_2", "target": "_2nd_one"},
        ],
    },
    "parallel": {
        "nodes": [
            {"name": "writer", "agent": "writer"},
            {"name": "writer_2", "agent": "writer"},
            {"name": "_2nd_one", "agent": "2nd-one"},
        ],
        "output": "[steps.writer.output, steps.writer_2.output, steps._2nd_one.output]",
    },
}


@pytest.mark.parametrize("strategy", GRAPHS)
def test_a_strategy_is_stored_as_the_graph_that_it_means(tmp_path: Path, strategy: str) -> None:
    agents = {**PROJECT["agents"], "2nd-one": {"llm": "m"}}
    flow = {"strategy": strategy, "agents": ["writer", "writer", "2nd-one"], "timeout": "10s"}
    layers = load(tmp_path, agents=agents, graph_workflows={"flow": flow})
    assert told(layers) == []
    (draft,) = (each for file in layers.files for each in file.drafts if each.key.name == "flow")
    assert draft.spec.model_dump(exclude_none=True) == {**GRAPHS[strategy], "timeout": "10s"}


def test_an_agent_of_a_strategy_that_there_is_not_is_told_once_and_where(tmp_path: Path) -> None:
    flow = {"strategy": "decision_tree", "agents": ["wirter"], "chooser": "report"}
    (problem,) = told(load(tmp_path, graph_workflows={"flow": flow}))
    assert problem.startswith(
        "graph_workflows.flow.agents[0]: there is no agent 'wirter'; did you mean writer?"
    )


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "nodes: is missing: a graph has nodes, or a strategy with agents"),
        ({"strategy": "parallel"}, "agents: is missing"),
        ({"agents": ["a"]}, "agents: goes with a strategy, which is not set"),
        ({"strategy": "parallel", "agents": ["a"], "nodes": []}, "nodes: has no place beside a strategy"),
        ({"strategy": "parallel", "agents": ["a"], "output": "1"}, "output: has no place beside a strategy"),
        ({"strategy": "decision_tree", "agents": ["a"]}, "chooser: is needed with the strategy"),
        ({"strategy": "parallel", "agents": ["a"], "chooser": "b"}, "chooser: is needed with the strategy"),
        ({"strategy": "parallel", "agents": ["a"] * 26}, "agents: must have at most 25"),
    ],
)
def test_what_does_not_go_with_a_strategy_is_told(spec: dict[str, Any], said: str) -> None:
    _, broken = check_spec("graph_workflow", spec)
    found = [f"{field_text(each.place)}: {each.message}" for each in broken]
    assert any(said in each for each in found), found
