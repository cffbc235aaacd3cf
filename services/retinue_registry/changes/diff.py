"""How the values of two versions of a component differ, field by field. Pure functions over plain values."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

Place: TypeAlias = tuple[str | int, ...]


class _NotSet(Enum):
    NOT_SET = "not set"


NOT_SET: Final = _NotSet.NOT_SET
"""Stands for a value that is not there; null is one that is."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that two versions have otherwise."""

    place: Place
    """Path of the field: `("mcp_servers", 1)`."""
    before: Any
    """A value, or NOT_SET; so is the next."""
    after: Any

    @property
    def before_json(self) -> str:
        """What it was, as JSON; empty where it was not set."""
        return _text(self.before)

    @property
    def after_json(self) -> str:
        """What it is, as JSON; empty where it is not set."""
        return _text(self.after)


def diff(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """What has to be done to `before`, one after the other, to have `after`; nothing where they are the same.

    Mappings and lists that both have are gone into, by key and by index. Of a list that grew or shrank the
    rest comes item by item, what is gone from its end. Keys have an order: where those that both have stand
    in another one, the mapping is one difference.
    """
    return list(_mapping((), before, after))


def _differences(place: Place, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from _mapping(place, before, after)
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list(place, before, after)
    elif _text(before) != _text(after):  # 1, 1.0 and true are equal in Python
        yield Difference(place, before, after)


def _mapping(place: Place, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    if [key for key in before if key in after] != [key for key in after if key in before]:
        yield Difference(place, before, after)
        return
    for key in _keys(before, after):
        if key not in after:
            yield Difference((*place, key), before[key], NOT_SET)
        elif key not in before:
            yield Difference((*place, key), NOT_SET, after[key])
        else:
            yield from _differences((*place, key), before[key], after[key])


def _keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of both, each once, in the order that both have."""
    of_before = iter(before)
    for key in after:
        if key in before:
            for gone in of_before:
                if gone == key:
                    break
                yield gone
        yield key
    yield from of_before


def _list(place: Place, before: Sequence[Any], after: Sequence[Any]) -> Iterator[Difference]:
    both = min(len(before), len(after))
    for index in range(both):
        yield from _differences((*place, index), before[index], after[index])
    for index in range(len(before) - 1, both - 1, -1):
        yield Difference((*place, index), before[index], NOT_SET)
    for index in range(both, len(after)):
        yield Difference((*place, index), NOT_SET, after[index])


def _text(value: Any) -> str:
    return "" if value is NOT_SET else json.dumps(value, ensure_ascii=False)
