"""Which names come nearest to one that does not exist."""

import difflib
from collections.abc import Iterable

_MOST = 500
"""Names that are compared: each costs about 10 µs, and the event loop waits."""
_LENGTH = 3


def nearest(name: str, names: Iterable[str], *, count: int = 3) -> list[str]:
    """The nearest of `names`, the best first; empty where none is near."""
    name = name[:128]
    near = [each for each in names if abs(len(each) - len(name)) <= max(_LENGTH, len(name) // 2)]
    if len(near) > _MOST:
        near = [each for each in near if each[:1] == name[:1] and abs(len(each) - len(name)) <= 1][:_MOST]
    return difflib.get_close_matches(name, near, n=count, cutoff=0.6)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """`; did you mean x or y?`, or nothing where no name is near."""
    found = nearest(name, names)
    return f"; did you mean {' or '.join(found)}?" if found else ""
