"""One step of a workflow that is made of steps: what it needs and gives, and what becomes of its failure."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinue_workflow.step_context import StepContext

MAX_RETRIES = 3
BACKOFF_S = 1.0
"""Before the first retry; it doubles with each."""
TIMEOUT_S = 60.0
"""For one try."""

Does = Callable[["StepContext"], Any]
"""What a step does: async, or plain, which runs in a thread and asks nothing of the engine."""
Handles = Callable[["StepContext", Exception], Any]
"""What is done in place of a step that failed for good, async or plain; it gives the step's output."""
Condition = Callable[["StepContext"], bool | Awaitable[bool]]


async def given_by(function: Callable[..., Any], *given: Any) -> Any:
    """What a function gives, that is async, or plain and runs in a thread."""
    if inspect.iscoroutinefunction(function):
        return await function(*given)
    return await now(await asyncio.to_thread(function, *given))


async def now(value: Any) -> Any:
    """A value, awaited where it has to be: plain code may give what async code is to do."""
    return await value if inspect.isawaitable(value) else value


@dataclass
class Step:
    """A step. Give it a function, or inherit and write `run`."""

    name: str
    """Unique in its workflow: a letter or `_`, then letters, digits and `_`."""
    does: Does | None = None
    requires: Sequence[str] = ()
    """Values of the context that must be there before it begins."""
    provides: Sequence[str] = ()
    """Values of the context that it must have set when it is done."""
    tools: Sequence[str] = ()
    """The tools that it calls, `server.tool`; they must be there before the first step begins."""
    condition: Condition | None = None
    """Where it gives false the step is left out. It may be async."""
    max_retries: int = MAX_RETRIES
    """How often it is tried again."""
    backoff_s: float = BACKOFF_S
    timeout_s: float | None = TIMEOUT_S
    """For one try, without the time that the run waits; None: no limit."""
    on_error: Handles | None = None
    """What is done in its place where it fails for good; else the workflow's own `on_error`."""
    tags: Sequence[str] = ()
    """Free words, in the summary."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Free values, in the summary."""

    def __post_init__(self) -> None:
        """Raise TypeError for a step that does nothing: when the code is loaded, not when its turn comes."""
        if self.does is None and type(self).run is Step.run:
            raise TypeError(f"the step {self.name} does nothing: give it `does`, or write `run`")

    async def run(self, ctx: "StepContext") -> Any:
        """Do it; what it gives is its output, JSON or what pydantic makes JSON of."""
        if self.does is None:
            return None
        return await given_by(self.does, ctx)

    def inner(self) -> Sequence["Step"]:
        """The steps that it is made of."""
        return ()


@dataclass
class CompositeStep(Step):
    """Steps as one: one after the other, or side by side. Each has its own retries and time."""

    steps: Sequence[Step] = ()
    parallel: bool = False
    max_retries: int = 0
    timeout_s: float | None = None

    async def run(self, ctx: "StepContext") -> dict[str, Any]:
        """Do them; their outputs by name."""
        if self.parallel:
            async with asyncio.TaskGroup() as group:
                tasks = {step.name: group.create_task(ctx.run_step(step)) for step in self.steps}
            return {name: task.result() for name, task in tasks.items()}
        return {step.name: await ctx.run_step(step) for step in self.steps}

    def inner(self) -> Sequence[Step]:
        return self.steps
