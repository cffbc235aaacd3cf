"""Which nodes a graph's joins wait for, and which lead nowhere else."""

from retinue_engine.workflow.definition import (
    EdgeDefinition,
    StepDefinition,
    TransformAction,
    WorkflowDefinition,
)
from retinue_engine.workflow.edges import Graph


def graph(*ways: str) -> Graph:
    edges = tuple(EdgeDefinition(*way.split(">")) for way in ways)
    names = sorted({name for way in ways for name in way.split(">")})
    steps = tuple(StepDefinition(name, TransformAction(template=name)) for name in names)
    return Graph(WorkflowDefinition("g", 1, steps, edges=edges))


def test_what_leads_nowhere_but_to_a_node_are_all_whose_ways_end_there() -> None:
    given = graph("a>b", "b>end", "c>end", "c>other", "a>end", "d>a")
    assert sorted(given.only_before("end")) == ["a", "b", "d"]
    assert list(given.only_before("other")) == []


def test_what_comes_before_a_node_is_all_from_which_it_can_be_reached() -> None:
    given = graph("a>b", "b>end", "c>end", "c>other", "end>after")
    assert given.before("end") == {"a", "b", "c"}
    assert given.before("a") == set()


def test_an_edge_knows_its_place_among_those_of_its_target() -> None:
    given = graph("b>end", "a>end")
    assert [number for number, _ in given.outgoing["a"]] == [1]
