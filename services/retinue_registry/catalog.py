"""The components as they are now, in memory: what every read is answered from.

One version of a key is in effect: API over project file. Who may replace whom is decided where it is written
(`plan`); what is here has won already.
"""

import bisect
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retinue_registry.component import ApiSource, Codec, FileSource, Key, Layer, Version
from retinue_registry.kinds import KINDS, ORDER, Reference

Place = tuple[int, str]
"""Order of the kind, name: how lists are sorted."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which components of a namespace a list has. What is empty leaves the choice open."""

    kind: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    name_pattern: str = ""
    """With `*`, `?` and `[abc]`, for the whole name."""
    source: type[ApiSource] | Layer | None = None

    def test(self) -> Callable[[Version], bool]:
        """A function that says whether a component is one of the list, whatever its kind."""
        labels, source = self.labels.items(), self.source
        named = re.compile(fnmatch.translate(self.name_pattern)).match if self.name_pattern else None

        def fits(version: Version) -> bool:
            if named and not named(version.key.name):
                return False
            if source and source is not (
                version.source.layer if isinstance(version.source, FileSource) else ApiSource
            ):
                return False
            return labels <= version.labels.items()

        return fits


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

    def ends(self) -> Iterator[Version]:
        """Yield the ends of what was deleted."""
        return iter(self._ends.values())

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

    def page(self, namespace: str, which: Filter, after: Place | None) -> Iterator[Version]:
        """Yield the versions that a filter lets through in the order of kind and name, after a place."""
        places = self._places.get(namespace, [])
        at = bisect.bisect_right(places, after) if after else 0
        if which.kind:
            at = max(at, bisect.bisect_left(places, (ORDER[which.kind], "")))
        kinds = list(KINDS)
        fits = which.test()
        while at < len(places):
            order, name = places[at]
            if which.kind and order != ORDER[which.kind]:
                return
            version = self._current[Key(namespace, kinds[order], name)]
            if fits(version):
                yield version
            at += 1

    def spec(self, key: Key) -> Mapping[str, Any] | None:
        """The spec of a component; None where there is none."""
        version = self._current.get(key)
        return self._codec.decode(key.kind, version.spec) if version else None

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
