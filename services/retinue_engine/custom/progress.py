"""How far a custom workflow's run is, as its events tell: which calls were made, and what they gave."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.call_pb2 import EmitCall, WorkflowCall, WriteState
from retinue.engine.v1.event_pb2 import WORKER_OUTCOME_WAITING
from retinue.engine.v1.run_pb2 import RunError
from retinue_engine.agent.spent import Spent
from retinue_engine.custom.code_steps import CodeSteps
from retinue_engine.workflow.progress import Progress


def place_of(key: str) -> str:
    """The path of what runs in a call; a slash in its key would begin another place."""
    return "call:" + key.replace("%", "%25").replace("/", "%2F")


@dataclass(slots=True)
class CallProgress:
    """One call that the code has made."""

    key: str
    call: WorkflowCall
    begun_us: int
    output_json: str | None = None
    """What it gave; None before, and where it failed."""
    error: RunError | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.output_json is not None or self.error is not None

    @property
    def due_us(self) -> int | None:
        """When a call that waits goes on by itself: a sleep is over, a time limit reached."""
        if self.call.HasField("sleep"):
            return self.begun_us + self.call.sleep.duration.ToMicroseconds()
        if self.call.HasField("timeout"):
            return self.begun_us + self.call.timeout.ToMicroseconds()
        return None


class CustomProgress(Progress):
    """Folds the events of a custom workflow's own run."""

    def __init__(self, message: str, spent: Spent | None = None) -> None:
        super().__init__(message, spent)
        self.calls: dict[str, CallProgress] = {}
        """By key, in the order in which they were made."""
        self.variables: dict[str, str] = {}
        """The run's state, each value as JSON."""
        self.code_steps = CodeSteps()
        """Where the steps stand that the code is made of."""
        self.workers: int = 0
        """How many have begun."""
        self.waiting = False
        """Whether the last worker ended because all it could go on with waits, and nothing has come since."""

    @property
    def open_calls(self) -> Iterator[CallProgress]:
        """Those that have not ended."""
        return (each for each in self.calls.values() if not each.done)

    @property
    def unanswered(self) -> Collection[str]:
        """The tool calls under way, and the questions that have no answer and are still asked."""
        over = {place_of(each.key) for each in self.calls.values() if each.done}
        asked = (place for place, each in self.asked.items() if each.answer is None and place not in over)
        return [*self.started, *asked]

    def dues_us(self) -> list[int]:
        """When open calls go on by themselves."""
        return [each.due_us for each in self.open_calls if each.due_us is not None]

    def _call_started(self, event: event_pb2.RunEvent) -> None:
        started = event.call_started
        self.calls[started.key] = CallProgress(started.key, started.call, event.time.ToMicroseconds())

    def _call_completed(self, event: event_pb2.RunEvent) -> None:
        completed = event.call_completed
        self.calls[completed.key].output_json = completed.output_json
        self.waiting = False

    def _call_failed(self, event: event_pb2.RunEvent) -> None:
        failed = event.call_failed
        call = self.calls[failed.key]
        call.error = failed.error
        # One that was cut off has no result.
        self.started.pop(place_of(failed.key), None)
        self.waiting = False

    def _recorded(self, event: event_pb2.RunEvent, key: str, call: WorkflowCall) -> None:
        self.calls[key] = CallProgress(key, call, event.time.ToMicroseconds(), output_json="null")

    def _custom_event(self, event: event_pb2.RunEvent) -> None:
        told = event.custom_event
        call = WorkflowCall(emit=EmitCall(name=told.name, data_json=told.data_json))
        self._recorded(event, told.key, call)

    def _state_changed(self, event: event_pb2.RunEvent) -> None:
        changed = event.state_changed
        if changed.step:
            self.code_steps.set(changed.step, changed.name, changed.value_json)
        else:
            write = WriteState(name=changed.name, value_json=changed.value_json)
            self._recorded(event, changed.key, WorkflowCall(write_state=write))
        if changed.value_json:
            self.variables[changed.name] = changed.value_json
        else:
            self.variables.pop(changed.name, None)

    def _worker_started(self, event: event_pb2.RunEvent) -> None:
        self.workers = event.worker_started.number
        # Before the first one all has come that the run had from which this one goes on.
        self.restored_whole = True
        self.waiting = False

    def _worker_ended(self, event: event_pb2.RunEvent) -> None:
        self.waiting = event.worker_ended.outcome == WORKER_OUTCOME_WAITING

    def state_of(self, name: str) -> Any:
        """A value of the run's state; None where there is none."""
        return json.loads(self.variables.get(name, "null"))

    def _code_step(self, event: event_pb2.RunEvent) -> None:
        # As those of other workflows, for the result; and for the code, which asks where they stand.
        Progress._APPLY[event.WhichOneof("event") or ""](self, event)  # noqa: SLF001 - what it folds beside
        self.code_steps.apply(event)

    _APPLY: ClassVar[Mapping[str, Any]] = {
        **Progress._APPLY,  # noqa: SLF001 - what it folds beside
        "step_started": _code_step,
        "step_skipped": _code_step,
        "step_retrying": _code_step,
        "step_completed": _code_step,
        "step_failed": _code_step,
        "call_started": _call_started,
        "call_completed": _call_completed,
        "call_failed": _call_failed,
        "custom_event": _custom_event,
        "state_changed": _state_changed,
        "worker_started": _worker_started,
        "worker_ended": _worker_ended,
    }
