"""The components as they are now, in memory: what every read is answered from.

One version of a key is in effect: API over project file. Who may replace whom is decided where it is written
(`plan`); what is here has won already.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence

from retinue_registry.component import Codec, Key, Version
from retinue_registry.kinds import KINDS, ORDER, Reference

Place = tuple[int, str]
"""Order of the kind, name: how lists are sorted."""


class Catalog:
    """Owns the current version of every key. Changes come from the registry's writer alone."""

    def __init__(self, codec: Codec, versions: Iterable[Version] = (), revision: int = 0) -> None:
        self._codec = codec
        self._current: dict[Key, Version] = {}
        self._ends: dict[Key, Version] = {}
        self._places: dict[str, list[Place]] = {}
        self._references: dict[Key, tuple[int, Sequence[Reference]]] = {}
        self.revision = revision
        """That of the last change."""
        for version in versions:
            (self._ends if version.deleted else self._current)[version.key] = version
        for namespace, kind, name in self._current:
            self._places.setdefault(namespace, []).append((ORDER[kind], name))
        for places in self._places.values():
            places.sort()

    def __len__(self) -> int:
        return len(self._current)

    def __iter__(self) -> Iterator[Version]:
        return iter(self._current.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._current

    def get(self, key: Key) -> Version | None:
        """The current version; None where there is none."""
        return self._current.get(key)

    def last(self, key: Key) -> Version | None:
        """The current version, or the end of one that was deleted."""
        return self._current.get(key) or self._ends.get(key)

    def put(self, version: Version) -> None:
        """Make a version the current one of its key; an end takes the key away."""
        key = version.key
        places = self._places.setdefault(key.namespace, [])
        place = (ORDER[key.kind], key.name)
        at = bisect.bisect_left(places, place)
        there = at < len(places) and places[at] == place
        self._references.pop(key, None)
        if version.deleted:
            self._current.pop(key, None)
            self._ends[key] = version
            if there:
                places.pop(at)
        else:
            self._current[key] = version
            self._ends.pop(key, None)
            if not there:
                places.insert(at, place)
        self.revision = max(self.revision, version.revision)

    def names(self, namespace: str, kind: str) -> Iterator[str]:
        """Yield the names of a kind, sorted."""
        places, number = self._places.get(namespace, []), ORDER[kind]
        for order, name in places[bisect.bisect_left(places, (number, "")) :]:
            if order != number:
                return
            yield name

    def page(self, namespace: str, kind: str | None, after: Place | None) -> Iterator[Version]:
        """Yield versions in the order of kind and name after a place, those of one kind where it is given."""
        places = self._places.get(namespace, [])
        at = bisect.bisect_right(places, after) if after else 0
        if kind:
            at = max(at, bisect.bisect_left(places, (ORDER[kind], "")))
        kinds = list(KINDS)
        while at < len(places):
            order, name = places[at]
            if kind and order != ORDER[kind]:
                return
            yield self._current[Key(namespace, kinds[order], name)]
            at += 1

    def references(self, version: Version) -> Sequence[Reference]:
        """What a version needs."""
        known = self._references.get(version.key)
        if known and known[0] == version.revision:
            return known[1]
        kind = KINDS[version.key.kind]
        found = tuple(kind.references(self._codec.decode(kind.name, version.spec))) if kind.refers else ()
        if self._current.get(version.key) is version:
            self._references[version.key] = (version.revision, found)
        return found
