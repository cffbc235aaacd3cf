"""What a step is given: the run, whose calls have keys of the step's own, and the workflow's typed values."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter

from retinue.engine.v1.call_pb2 import WorkflowCall
from retinue.registry.v1.component_pb2 import ComponentKind
from retinue_workflow.context import Calls, Context
from retinue_workflow.step import Step
from retinue_workflow.summary import StepResult


class KeyedCalls:
    """Calls whose keys begin with their place in the workflow: those of steps side by side stay apart."""

    def __init__(self, calls: Calls, place: str) -> None:
        self._calls = calls
        self._place = place
        self._counts: Counter[str] = Counter()

    async def call(self, key: str, call: WorkflowCall) -> Any:
        """What a call gives. Raises the RetinueError with which it fails."""
        return await self._calls.call(f"{self._place}/{key or self._next(call)}", call)

    def _next(self, call: WorkflowCall) -> str:
        kind = str(call.WhichOneof("call"))
        if call.HasField("run"):
            target = call.run.target
            word = ComponentKind.Name(target.kind).removeprefix("COMPONENT_KIND_").lower()
            kind = f"{word}:{target.name}"
        elif call.HasField("tool"):
            kind = f"tool:{call.tool.server}.{call.tool.tool}"
        self._counts[kind] += 1
        return f"{kind}#{self._counts[kind]}"


class Values:
    """The values of a workflow's context, each of the type that its model declares."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._types: dict[str, TypeAdapter[Any]] = {
            name: TypeAdapter(each.rebuild_annotation()) for name, each in model.model_fields.items()
        }
        self._values: dict[str, Any] = {
            name: each.get_default(call_default_factory=True)
            for name, each in model.model_fields.items()
            if not each.is_required()
        }

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def get(self, name: str) -> Any:
        """A value. Raises LookupError where it has not been set, or is not declared."""
        if name not in self._values:
            known = ", ".join(self._types)
            why = "has not been set" if name in self._types else f"is not declared: there are {known}"
            raise LookupError(f"the value {name!r} {why}")
        return self._values[name]

    def checked(self, name: str, value: Any) -> Any:
        """A value as its type has it. Raises LookupError, and ValueError where it does not fit."""
        if name not in self._types:
            raise LookupError(f"the value {name!r} is not declared: there are {', '.join(self._types)}")
        return self._types[name].validate_python(value)

    def set(self, name: str, value: Any) -> None:
        """Set a value. Raises as `checked`."""
        self._values[name] = self.checked(name, value)

    def as_json(self, name: str, value: Any) -> str:
        """A value as JSON."""
        return self._types[name].dump_json(value).decode()


class StepContext(Context):
    """The context of one try of a step.

    What it sets counts once the step is done: a try that fails leaves nothing behind.
    """

    def __init__(
        self,
        outer: Context,
        place: str,
        values: Values,
        results: Mapping[str, StepResult],
        run_step: Callable[[Step], Awaitable[Any]],
    ) -> None:
        super().__init__(outer._begin, KeyedCalls(outer._calls, place))  # noqa: SLF001 - the same run
        self._values = values
        self.changes: dict[str, Any] = {}
        """What it has set."""
        self.results = results
        """How the steps before it ended, by name: output, tries, start and end."""
        self._run_step = run_step

    def get(self, name: str) -> Any:
        """A value of the workflow's context. Raises LookupError where it has not been set."""
        return self.changes[name] if name in self.changes else self._values.get(name)

    def set(self, name: str, value: Any) -> None:
        """Set a value of the workflow's context. Raises LookupError, ValueError."""
        self.changes[name] = self._values.checked(name, value)

    def has(self, name: str) -> bool:
        """Whether a value has been set."""
        return name in self.changes or name in self._values

    async def run_step(self, step: Step) -> Any:
        """Do an inner step; its output."""
        return await self._run_step(step)
