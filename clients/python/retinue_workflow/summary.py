"""How steps and workflows went."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel


class StepResult(BaseModel):
    """How a step ended. The times are the engine's: the same each time the code runs."""

    name: str
    state: Literal["completed", "skipped", "failed"]
    tries: int
    begun: float
    """Seconds since 1970; 0 where it was left out."""
    ended: float
    output: Any = None
    error: str = ""
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = {}
    """As the step declares them."""


class Summary(BaseModel):
    """How a workflow went."""

    workflow: str
    steps: list[StepResult]
    tags: Sequence[str] = ()
    metadata: Mapping[str, Any] = {}
    """As the workflow declares them."""
    hook_errors: int = 0
    """How many hooks failed in this process; they break nothing."""
