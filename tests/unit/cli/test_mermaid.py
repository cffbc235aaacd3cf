"""What is drawn of a run of code: by when its steps began and ended."""

from retinue.registry.v1 import component_pb2
from retinue_cli.mermaid import Drawn, draw


def drawn(**steps: Drawn) -> list[str]:
    component = component_pb2.Component(name="flow")
    component.custom_workflow.entry_point = "flows:Flow"
    return [line.strip() for line in draw(component, steps).splitlines() if "-->" in line]


def test_steps_side_by_side_are_drawn_side_by_side_with_those_around_them() -> None:
    lines = drawn(
        clock=Drawn("completed", 1, 2),
        parts=Drawn("completed", 3, 8),
        news=Drawn("completed", 4, 6),
        numbers=Drawn("failed", 5, 7),
        edit=Drawn("started", 9, None),
        late=Drawn("started", 10, None),
    )
    assert lines == [
        "code --> call_1",
        "call_1 --> call_2",
        "call_1 --> call_3",
        "call_1 --> call_4",
        *(f"call_{before} --> call_{after}" for after in (5, 6) for before in (2, 3, 4)),
    ]


def test_calls_one_after_the_other_are_a_chain() -> None:
    lines = drawn(**{name: Drawn("completed", at, at) for at, name in enumerate("abc", 1)})
    assert lines == ["code --> call_1", "call_1 --> call_2", "call_2 --> call_3"]
