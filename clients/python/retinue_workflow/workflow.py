"""A workflow that is made of steps."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from retinue.errors import InvalidArgumentError
from retinue_workflow.context import Context
from retinue_workflow.execution import Execution
from retinue_workflow.step import Step
from retinue_workflow.step_context import StepContext, Values
from retinue_workflow.summary import Summary


class Workflow:
    """Inherit, say what its context holds and which steps it has, and name the class in the config.

    Each step is in the journal with the events that the steps of other workflows have. One that is done is
    not done again, whatever happens to the process or the engine.
    """

    context: ClassVar[type[BaseModel]]
    """The values that steps share: a pydantic model, as a class or made by `pydantic.create_model`."""
    steps: ClassVar[Sequence[Step]] = ()
    requires: ClassVar[Sequence[str]] = ()
    """The values that the input must give."""
    provides: ClassVar[Sequence[str]] = ()
    """The values that are its output; where none is named, the output of the last step."""
    tags: ClassVar[Sequence[str]] = ()
    """Free words, in the summary."""
    metadata: ClassVar[Mapping[str, Any]] = {}
    """Free values, in the summary."""

    async def run(self, ctx: Context, input: Any) -> Any:
        """Do the steps in order. The input is a JSON object of values, or the one value that is required."""
        values = Values(self.context)
        for name, value in self._given(input).items():
            try:
                values.set(name, value)
            except (LookupError, ValueError) as error:
                raise InvalidArgumentError(f"the input of {ctx.name} cannot be used: {error}") from None
        lacking = [name for name in self.requires if name not in values]
        if lacking:
            raise InvalidArgumentError(f"the input of {ctx.name} lacks {', '.join(lacking)}")
        execution = Execution(self, ctx, values)
        done = await execution.run()
        if self.provides:
            return {name: done.get(name) for name in self.provides}
        results = list(done.results.values())
        return results[-1].output if results else None

    def _given(self, input: Any) -> Mapping[str, Any]:
        given = input
        if isinstance(input, str):
            try:
                given = json.loads(input)
            except ValueError:
                given = input
        if isinstance(given, Mapping):
            return given
        return {self.requires[0]: input} if len(self.requires) == 1 else {}

    @property
    def handles_errors(self) -> bool:
        """Whether it has an `on_error` of its own."""
        return type(self).on_error is not Workflow.on_error

    async def on_error(self, step: Step, ctx: StepContext, error: Exception) -> Any:
        """What is done in place of a step that failed for good and has no handler of its own: its output."""
        _ = step, ctx
        raise error

    # Hooks; they may be async. What they raise is logged and counted, and breaks nothing.

    def before_workflow(self, ctx: StepContext) -> Any:
        """Called before the first step, each time the code runs."""

    def after_workflow(self, ctx: StepContext, summary: Summary) -> Any:
        """Called at the end, also where a step has failed."""

    def before_step(self, step: Step, ctx: StepContext) -> Any:
        """Called before a step that is not done."""

    def after_step(self, step: Step, ctx: StepContext) -> Any:
        """Called after it; `ctx.results` has how it went."""
