"""The table of kinds. A new kind is a message in the protos, a model, and a row here."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from retinue_registry.models import AgentSpec, LlmSpec, McpServerSpec, Spec
from retinue_registry.models.fields import RefersTo


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


def _referring(model: type[Spec]) -> dict[str, str]:
    """The fields of a model that name other components, each with the kind that it names."""
    hints = typing.get_type_hints(model, include_extras=True)
    return {name: marker.kind for name, hint in hints.items() for marker in _markers(hint)}


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
    refers: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "refers", _referring(self.model))

    def references(self, values: Mapping[str, Any]) -> Iterator[Reference]:
        """Yield what a component with these values needs. The values may break rules."""
        for name, kind in self.refers.items():
            value = values.get(name)
            if isinstance(value, str):
                yield Reference((name,), kind, value)
            elif isinstance(value, list):
                for index, each in enumerate(value):
                    if isinstance(each, str):
                        yield Reference((name, index), kind, each)


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("llm", "llms", LlmSpec),
        Kind("mcp_server", "mcp_servers", McpServerSpec),
        Kind("agent", "agents", AgentSpec, runnable=True),
    )
}
"""By name, in the order in which lists show them: that of the numbers in the protos."""

ORDER: Mapping[str, int] = {name: index for index, name in enumerate(KINDS)}
