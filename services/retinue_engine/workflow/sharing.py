"""The state of a workflow, which its steps set: who may set what, and what becomes of a conflict."""

import json
from collections.abc import Collection, Mapping
from typing import Any, Literal

from retinue.errors import PayloadTooLargeError, StateConflictError

ConflictPolicy = Literal["error", "last", "merge"]
MAX_STATE_BYTES = 256 * 1024
"""Of the whole state as JSON."""


def settled(
    step: str,
    changes: Mapping[str, Any],
    shared: Mapping[str, Any],
    others: Mapping[str, Collection[str]],
    policy: ConflictPolicy,
) -> dict[str, Any]:
    """What a step sets for good. Raises StateConflictError.

    `others` names for each key the steps that have set it and do not come before this one.
    """
    found = dict(changes)
    for key, value in changes.items():
        rivals = others.get(key, ())
        if not rivals or policy == "last":
            continue
        other = ", ".join(sorted(rivals))
        if policy == "error":
            raise StateConflictError(
                f"the step {step} sets `{key}` of the state, which {other} has set side by side with it: let "
                "an edge lead from one to the other, or set on_conflict to last or merge",
                step=step,
                key=key,
                other=other,
            )
        found[key] = _merged(shared[key], value, key, step, other)
    return found


def check_size(shared: Mapping[str, Any], step: str) -> None:
    """Raise PayloadTooLargeError where the state would become too large."""
    size = len(json.dumps(shared, ensure_ascii=False).encode())
    if size > MAX_STATE_BYTES:
        raise PayloadTooLargeError(
            f"with what the step {step} sets, the state has {size} bytes, and a workflow takes "
            f"{MAX_STATE_BYTES}: let it hold less",
            size_bytes=size,
            limit_bytes=MAX_STATE_BYTES,
        )


def _merged(one: Any, other: Any, key: str, step: str, rivals: str) -> Any:
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *other]
    if isinstance(one, dict) and isinstance(other, dict):
        both = {
            name: _merged(one[name], value, f"{key}.{name}", step, rivals) if name in one else value
            for name, value in other.items()
        }
        return {**one, **both}
    if one == other:
        return one
    raise StateConflictError(
        f"the step {step} sets `{key}` of the state to another value than {rivals}, side by side with it: "
        "only lists and objects can be merged",
        step=step,
        key=key,
        other=rivals,
    )
