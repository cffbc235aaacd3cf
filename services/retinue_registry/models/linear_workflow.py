"""The rules of a linear workflow."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from retinue_registry.models.agent import Budget
from retinue_registry.models.fields import Broken, Duration, Spec, Text, optional, required
from retinue_registry.models.json_schema import JsonSchema
from retinue_registry.models.json_value import JsonMapping
from retinue_registry.models.step import Expression, WorkflowStep, broken_output, broken_step

MAX_STEPS = 1000


class LinearWorkflowSpec(Spec):
    """Steps, one after the other."""

    description: Text | None = optional("Writes a report.")
    steps: Annotated[list[WorkflowStep], Field(min_length=1, max_length=MAX_STEPS)] = required(
        [{"name": "draft", "agent": "writer"}]
    )
    input_schema: JsonSchema | None = optional(
        {"type": "object", "properties": {"topic": {"type": "string"}}}
    )
    output: Expression | None = optional("steps.draft.output")
    timeout: Duration | None = optional("10m")
    budget: Budget | None = optional({"max_turns": 30})
    session_budget: Budget | None = optional({"max_tokens": 500_000})
    state: JsonMapping | None = optional({"found": []})

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield what breaks the rules of its steps, and names that lead nowhere."""
        steps = given.get("steps")
        before: dict[str, None] = {}
        for index, step in enumerate(steps if isinstance(steps, list) else ()):
            if not isinstance(step, dict):
                continue
            place, name = ("steps", index), step.get("name")
            if name in before:
                yield Broken((*place, "name"), f"{name!r} is the name of an earlier step")
            if "join" in step:
                yield Broken((*place, "join"), "is for nodes of a graph")
            yield from broken_step(place, step, before)
            if isinstance(name, str):
                before[name] = None
        yield from broken_output(("output",), given.get("output"), before)
