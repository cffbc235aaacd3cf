"""Finds components that need each other in a circle: agents that call agents that call them."""

from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import islice, pairwise

from retinue_registry.component import Draft, FileSource, Key, Source
from retinue_registry.kinds import KINDS, Reference

MAX_CIRCLES = 100
"""Those that are named at once; the rest comes when they are broken."""
MAX_NAMES = 16
"""Names of one circle in a message."""

Needs = Callable[[Key], Iterable[Key]]
Circle = list[Key]
"""Each needs the next; the last is the first again."""


def needs_of(key: Key, references: Iterable[Reference]) -> Iterator[Key]:
    """Yield what of a component's references can be in a circle: what may refer to something itself."""
    for reference in references:
        if KINDS[reference.kind].refers:
            yield Key(key.namespace, reference.kind, reference.name)


def draft_needs(draft: Draft) -> Iterator[Key]:
    """As `needs_of`, of a draft."""
    return needs_of(draft.key, KINDS[draft.key.kind].references(dict(draft.spec)))


def draft_step(draft: Draft, needed: Key) -> tuple[str | int, ...]:
    """The place inside a draft's spec that names what it needs."""
    references = KINDS[draft.key.kind].references(dict(draft.spec))
    return next(place for place, kind, name in references if (kind, name) == needed[1:])


def where_from(source: Source) -> str:
    """Where a component stands: `agents.yaml:3`, or `API`."""
    return str(source) if isinstance(source, FileSource) else "API"


def find_circles(starts: Iterable[Key], needs: Needs) -> Iterator[Circle]:
    """Yield circles among what can be reached, each without the steps of those before."""
    graph: dict[Key, dict[Key, None]] = {}
    waiting = list(starts)
    while waiting:
        key = waiting.pop()
        if key not in graph:
            graph[key] = dict.fromkeys(needs(key))
            waiting += graph[key]
    for _ in range(MAX_CIRCLES):
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circle: Circle = error.args[1][::-1]
            yield circle
            for holder, needed in pairwise(circle):
                del graph[holder][needed]
        else:
            return


def explain_circle(circle: Circle, holder: Key, where: Callable[[Key], str]) -> str:
    """What to say of a circle to one in it; `where` says where another one stands, or nothing."""
    if len(set(circle)) == 1:
        return f"the {holder.kind} {holder.name!r} cannot need itself"
    ring = circle[:-1]
    start = ring.index(holder)
    names = [holder.name]
    for key in islice([*ring[start + 1 :], *ring[:start]], MAX_NAMES):
        place = where(key)
        names.append(f"{key.name} ({place})" if place else key.name)
    if len(ring) > len(names):
        names.append(f"{len(ring) - len(names)} more")
    return f"leads back to the {holder.kind} itself: {' → '.join([*names, holder.name])}"
