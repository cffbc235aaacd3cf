"""Finds references that lead nowhere."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from retinue_registry.component import Draft, Key
from retinue_registry.kinds import KINDS
from retinue_registry.nearest import did_you_mean


class Dangling(NamedTuple):
    """A reference to a component that does not exist."""

    draft: Draft
    place: tuple[str | int, ...]
    """Path inside the spec."""
    missing: Key


def dangling(drafts: Iterable[Draft], exists: Callable[[Key], bool]) -> Iterator[Dangling]:
    """Yield the references of drafts to what does not exist."""
    for draft in drafts:
        for place, kind, name in KINDS[draft.key.kind].references(dict(draft.spec)):
            needed = Key(draft.key.namespace, kind, name)
            if not exists(needed):
                yield Dangling(draft, place, needed)


def explain(missing: Key, names: Iterable[str]) -> str:
    """What to say of a missing component; `names` are those that there are of its kind."""
    return f"there is no {missing.kind} {missing.name!r}{did_you_mean(missing.name, names)}"
