"""The ids that the engine makes."""

import os
import time
from typing import Literal

_DRAWN_BYTES = 4096
_DIGITS = 16

_drawn: list[str] = []
"""Random hex digits for the next ids, each taken once. Drawn together: each time that the system is asked,
the interpreter goes to another thread."""

# What is forked would make the ids of its parent.
os.register_at_fork(after_in_child=_drawn.clear)


def new_run_id() -> str:
    """`run-` and 24 hex digits; ids made later sort later, which keeps the store's pages together."""
    return f"run-{time.time_ns() // 1_000_000:012x}{_random(12)}"


def new_session_id(kind: Literal["agent", "workflow"]) -> str:
    """`agent-` or `workflow-` and 8 hex digits; may exist already.

    Four of them tell the minute, so that sessions of the same time lie side by side in the store: with a
    million of them, ids all over the place cost a quarter of the runs. They come again after 48 days.
    """
    return f"{kind}-{int(time.time()) // 64 & 0xFFFF:04x}{_random(4)}"


def new_writer() -> str:
    """A token for a claim."""
    return _random(16)


def _random(digits: int) -> str:
    """So many random hex digits, 16 at most."""
    if not _drawn:
        drawn = os.urandom(_DRAWN_BYTES).hex()
        _drawn.extend(drawn[at : at + _DIGITS] for at in range(0, len(drawn), _DIGITS))
    return _drawn.pop()[:digits]
