"""The table of kinds. A new kind is a message in the protos, a model, and a row here."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from retinue_registry.models import (
    AgentSpec,
    CustomWorkflowSpec,
    GraphWorkflowSpec,
    LinearWorkflowSpec,
    LlmSpec,
    McpServerSpec,
    Spec,
)
from retinue_registry.models.fields import Part, RefersTo


class Reference(NamedTuple):
    """That a component needs another one."""

    place: tuple[str | int, ...]
    """Path of the field inside the spec that names it."""
    kind: str
    name: str


def _markers(annotation: Any) -> Iterator[RefersTo]:
    for part in (*getattr(annotation, "__metadata__", ()), *typing.get_args(annotation)):
        if isinstance(part, RefersTo):
            yield part
        elif typing.get_args(part):
            yield from _markers(part)


def _parts(annotation: Any) -> Iterator[type[Part]]:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _parts(part)


Referring = Mapping[str, "str | Referring"]
"""The fields of a model that name other components, each with the kind that it names; of a field that holds
messages with such fields, those."""


def _referring(model: type[Part]) -> Referring:
    found: dict[str, str | Referring] = {}
    for name, hint in typing.get_type_hints(model, include_extras=True).items():
        marker = next(iter(_markers(hint)), None)
        inner = {key: value for part in _parts(hint) for key, value in _referring(part).items()}
        if marker or inner:
            found[name] = marker.kind if marker else inner
    return found


def _kinds_in(refers: Referring) -> Iterator[str]:
    for what in refers.values():
        if isinstance(what, str):
            yield what
        else:
            yield from _kinds_in(what)


def _references(refers: Referring, values: Any, place: tuple[str | int, ...]) -> Iterator[Reference]:
    if not isinstance(values, Mapping | Part):
        return
    for name, what in refers.items():
        value = values.get(name) if isinstance(values, Mapping) else getattr(values, name)
        several = isinstance(value, list)
        for index, each in enumerate(value if isinstance(value, list) else [value]):
            below = (*place, name, index) if several else (*place, name)
            if not isinstance(what, str):
                yield from _references(what, each, below)
            elif isinstance(each, str):
                yield Reference(below, what, each)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of component."""

    name: str
    """As in the protos' ComponentKind, in lower case; also the case of Component.spec."""
    plural: str
    """The key of a project's file under which such components stand."""
    model: type[Spec]
    runnable: bool = False
    """Whether a run can have it as its target."""
    refers: Referring = field(init=False)
    needs: frozenset[str] = field(init=False)
    """The kinds that it may refer to."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "refers", _referring(self.model))
        object.__setattr__(self, "needs", frozenset(_kinds_in(self.refers)))

    def references(self, values: Mapping[str, Any]) -> Iterator[Reference]:
        """Yield what a component with these values needs. The values may break rules."""
        yield from _references(self.refers, values, ())


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("llm", "llms", LlmSpec),
        Kind("mcp_server", "mcp_servers", McpServerSpec),
        Kind("agent", "agents", AgentSpec, runnable=True),
        Kind("linear_workflow", "linear_workflows", LinearWorkflowSpec, runnable=True),
        Kind("graph_workflow", "graph_workflows", GraphWorkflowSpec, runnable=True),
        Kind("custom_workflow", "custom_workflows", CustomWorkflowSpec, runnable=True),
    )
}
"""By name, in the order in which lists show them: that of the numbers in the protos."""

ORDER: Mapping[str, int] = {name: index for index, name in enumerate(KINDS)}
