"""What one try of a step gave."""

from dataclasses import dataclass
from typing import Any

from retinue_engine.workflow.values import as_text


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an agent, a workflow, a tool, a person or an expression answered."""

    text: str
    structured: Any = None
    """The structured answer; None where there is none."""

    @classmethod
    def of(cls, value: Any) -> "StepResult":
        """The result that is a value."""
        return cls(value) if isinstance(value, str) else cls(as_text(value), value)

    @property
    def value(self) -> Any:
        """The step's output, where no expression makes another."""
        return self.text if self.structured is None else self.structured
