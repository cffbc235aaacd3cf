"""A set of components that a caller of the API wants stored, right or wrong."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from retinue.errors import Violation
from retinue_registry.component import Draft, Key


class Need(NamedTuple):
    """That a component needs another one."""

    field: str
    """Where in the request the other one is named: `components[3].agent.llm`."""
    needed: Key


class Proposal(NamedTuple):
    """A set of components, with what is wrong with each of them by itself."""

    drafts: Sequence[Draft]
    """Those that break no rule of their own."""
    violations: Sequence[Violation] = ()
    """The rules that the others break."""
    facts: Mapping[str, Any] = MappingProxyType({})
    """Kind and name of the first of the others, where they could be read."""
    needs: Sequence[Need] = ()
    """What the others refer to."""
    declared: Collection[Key] = ()
    """The others whose kind and name are right: references to them lead somewhere."""
