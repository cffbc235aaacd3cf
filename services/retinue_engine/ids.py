"""The ids that the engine makes."""

import secrets
import time
from typing import Literal


def new_run_id() -> str:
    """`run-` and 24 hex digits; ids made later sort later, which keeps the store's pages together."""
    return f"run-{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def new_session_id(kind: Literal["agent", "workflow"]) -> str:
    """`agent-` or `workflow-` and 8 hex digits; may exist already.

    Four of them tell the minute, so that sessions of the same time lie side by side in the store: with a
    million of them, ids all over the place cost a quarter of the runs. They come again after 48 days.
    """
    return f"{kind}-{int(time.time()) // 64 & 0xFFFF:04x}{secrets.token_hex(2)}"


def new_writer() -> str:
    """A token for a claim."""
    return secrets.token_hex(8)
