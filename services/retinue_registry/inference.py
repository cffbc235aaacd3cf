"""Puts what is meant in the place of short forms: of `run` the field of its kind, of a strategy its nodes.

A stored spec has none: what a workflow runs does not change because another component gets the same name.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from retinue_registry.component import Draft, Key
from retinue_registry.kinds import KINDS
from retinue_registry.models.fields import Broken
from retinue_registry.nearest import did_you_mean
from retinue_registry.shorthands import expanded

Place = tuple[str | int, ...]
Exists = Callable[[Key], bool]
Names = Callable[[str], list[str]]
"""The names of the components of a kind."""

RUN = "run"
_NESTED = ("fallback", "each", "loop")
_LISTS = {"linear_workflow": "steps", "graph_workflow": "nodes"}


def is_short(draft: Draft) -> bool:
    """Whether something in a draft is named without its kind, or it is a strategy."""
    if draft.key.kind not in _LISTS:
        return False
    values = draft.spec.model_dump(exclude_none=True)
    return "strategy" in values or any(_named(values))


def infer(draft: Draft, exists: Exists, names: Names) -> tuple[Draft | None, list[Broken]]:
    """The draft in full, or None and the names that are none or several things."""
    values = expanded(draft.spec.model_dump(exclude_none=True))
    broken: list[Broken] = []
    for place, holder in list(_named(values)):
        name = holder.pop(RUN)
        found = list(_candidates(draft.key.namespace, name, exists))
        if len(found) == 1:
            _put(holder, found[0], name)
        else:
            broken.append(Broken((*place, RUN), _explain(name, found, names)))
    if broken:
        return None, broken
    return dataclasses.replace(draft, spec=type(draft.spec).model_validate(values)), []


def _named(values: Mapping[str, Any]) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the parts that name what they run by `run`, with their places."""
    for field in _LISTS.values():
        for index, step in enumerate(values.get(field, ())):
            place: Place = (field, index)
            parts = [(place, step), *(((*place, name), step.get(name)) for name in _NESTED)]
            choices = (step.get("failover") or {}).get("choices", ())
            parts += [((*place, "failover", "choices", number), each) for number, each in enumerate(choices)]
            yield from ((where, part) for where, part in parts if part and RUN in part)


def _candidates(namespace: str, name: str, exists: Exists) -> Iterator[Key]:
    server, slash, _ = name.partition("/")
    kinds = ["mcp_server"] if slash else [kind.name for kind in KINDS.values() if kind.runnable]
    for kind in kinds:
        if exists(key := Key(namespace, kind, server)):
            yield key


def _put(holder: dict[str, Any], found: Key, name: str) -> None:
    arguments = holder.pop("arguments", None)
    if found.kind != "mcp_server":
        holder[found.kind] = name
        return
    _, _, tool = name.partition("/")
    holder["tool"] = {"server": found.name, "tool": tool, **({"arguments": arguments} if arguments else {})}


def _explain(name: str, found: list[Key], names: Names) -> str:
    if found:
        said = " and ".join(map(str, found))
        return f"{name!r} could be {said}: name its kind, `{found[0].kind}: {name}`"
    server, slash, _ = name.partition("/")
    if slash:
        return f"there is no mcp_server {server!r}{did_you_mean(server, names('mcp_server'))}"
    kinds = [kind.name for kind in KINDS.values() if kind.runnable]
    known = sorted({each for kind in kinds for each in names(kind)})
    return f"there is no {' or '.join(kinds)} {name!r}{did_you_mean(name, known)}"
