"""Draws workflows as Mermaid flowcharts (https://mermaid.js.org/syntax/flowchart.html)."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from retinue.registry.v1 import component_pb2, workflow_pb2

_COLOURS = {
    "completed": "fill:#d3f4d3,stroke:#2e7d32",
    "failed": "fill:#f9d0d0,stroke:#c62828",
    "skipped": "fill:#eeeeee,stroke:#9e9e9e,color:#757575",
    "started": "fill:#fff3cd,stroke:#b8860b",
}
_AFTER = {2: "after failure", 3: "always"}
_LONGEST = 60


class Drawn(NamedTuple):
    """A step of a run, or a call."""

    state: str
    begun: int
    """The sequence number of its first event."""
    ended: int | None
    """That of its end; None: it has not ended."""


def draw(component: "component_pb2.Component", steps_of_run: Mapping[str, Drawn] | None = None) -> str:
    """The flowchart of a workflow; `steps_of_run` tells how its steps stand, where that is known.

    What code does nobody knows before: of a custom workflow it is what it may use, or the calls of a run.
    """
    if component.HasField("custom_workflow"):
        return _draw_code(component, steps_of_run)
    lines = ["flowchart TD"]
    if component.HasField("graph_workflow"):
        spec = component.graph_workflow
        steps = spec.nodes
        edges = list(_edges(spec))
    else:
        steps = component.linear_workflow.steps
        edges = [f"  {_id(one)} --> {_id(other)}" for one, other in pairwise(steps)]
    lines += [f"  {_id(step)}{_shape(step)}" for step in steps]
    lines += edges
    known = steps_of_run or {}
    lines += _coloured({_id(step): known[step.name].state for step in steps if step.name in known})
    return "\n".join(lines) + "\n"


def _draw_code(component: "component_pb2.Component", steps: Mapping[str, Drawn] | None) -> str:
    spec = component.custom_workflow
    program = spec.entry_point or spec.command
    lines = ["flowchart TD", f'  code[["{_text(component.name)}<br/>{_text(program)}"]]']
    if steps is None:
        uses = [f"agent {name}" for name in spec.agents]
        for kind in ("linear", "graph", "custom"):
            uses += [f"{kind} workflow {name}" for name in getattr(spec, f"{kind}_workflows")]
        uses += [f"tools of {name}" for name in spec.mcp_servers]
        lines += [f'  code --> use_{number}["{_text(use)}"]' for number, use in enumerate(uses, 1)]
        return "\n".join(lines) + "\n"
    ids = {key: f"call_{number}" for number, key in enumerate(steps, 1)}
    for key, step in steps.items():
        lines.append(f'  {ids[key]}["{_text(key)}"]')
        lines += [f"  {ids[before]} --> {ids[key]}" for before in _just_before(step, steps)] or [
            f"  code --> {ids[key]}"
        ]
    lines += _coloured({ids[key]: step.state for key, step in steps.items()})
    return "\n".join(lines) + "\n"


def _just_before(step: Drawn, steps: Mapping[str, Drawn]) -> list[str]:
    """Those that had ended when a step began, without those that had ended before one of these began."""
    over = {key: each for key, each in steps.items() if each.ended is not None and each.ended < step.begun}
    last = max((each.begun for each in over.values()), default=0)
    return [key for key, each in over.items() if (each.ended or 0) >= last]


def _coloured(states: Mapping[str, str]) -> Iterator[str]:
    for state, colour in _COLOURS.items():
        names = [name for name, each in states.items() if each == state]
        if names:
            yield f"  classDef {state} {colour}"
            yield f"  class {','.join(names)} {state}"


def _id(step: "workflow_pb2.WorkflowStep | str") -> str:
    # Some words, `end` among them, mean something to Mermaid.
    return f"step_{step if isinstance(step, str) else step.name}"


def _edges(spec: "workflow_pb2.GraphWorkflowSpec") -> Iterator[str]:
    for edge in spec.edges:
        said = ", ".join(each for each in (_AFTER.get(edge.after, ""), edge.route, edge.when) if each)
        arrow = f'-- "{_text(said)}" -->' if said else "-->"
        yield f"  {_id(edge.source)} {arrow} {_id(edge.target)}"


def _shape(step: "workflow_pb2.WorkflowStep") -> str:
    what = step.WhichOneof("target") or ""
    more = f"<br/>if {_text(step.condition)}" if step.condition else ""
    label = f"{step.name}<br/>{_text(_target(step, what))}{more}"
    begin, end = {"router": ("{", "}"), "ask": ("[/", "/]"), "fail": ("([", "])"), "each": ("[[", "]]")}.get(
        what, ("[", "]")
    )
    return f'{begin}"{label}"{end}'


def _target(step: "workflow_pb2.WorkflowStep | workflow_pb2.StepFallback", what: str) -> str:
    target = getattr(step, what, "")
    if isinstance(target, str):
        return f"{what.replace('_', ' ')} {target}"
    if what == "tool":
        return f"{target.server}.{target.tool}"
    if what in ("each", "loop"):
        inner = _inner(target)
        return f"each of {target.items}: {inner}" if what == "each" else f"{inner} until {target.until}"
    if what == "failover":
        return " or ".join(map(_inner, target.choices))
    chooser = f"agent {target.agent} chooses" if what == "router" and target.agent else "route"
    return {
        "ask": "asks a person",
        "fail": "fails",
        "router": chooser,
        "memory_write": "keeps a text",
        "memory_read": "finds texts",
    }.get(what, what)


def _inner(target: "workflow_pb2.StepFallback") -> str:
    return _target(target, target.WhichOneof("target") or "")


def _text(text: str) -> str:
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    for sign, written in (("#", "#35;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", " ")):
        short = short.replace(sign, written)
    return short
