"""The steps that the code of a custom workflow is made of: what events tell, and what is written of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from retinue.engine.v1 import call_pb2, event_pb2
from retinue.engine.v1.call_pb2 import CodeStepReport
from retinue.engine.v1.run_pb2 import RunError
from retinue.errors import InvalidArgumentError
from retinue.registry.v1.workflow_pb2 import STEP_ERROR_POLICY_CONTINUE, STEP_ERROR_POLICY_FAIL

State = Literal["open", "completed", "skipped", "failed"]


@dataclass(slots=True)
class CodeStep:
    """One step of the code."""

    begun_us: int = 0
    """When its first try began."""
    ended_us: int = 0
    """When it was done or failed for good; 0 before."""
    started: int = 0
    """The last try that began."""
    retried: int = 0
    """The last try that failed and is followed by another."""
    state: State = "open"
    handled: bool = False
    """Of one that failed: whether the workflow goes on."""
    output_json: str = "null"
    values: dict[str, str] = field(default_factory=dict)
    """What it has set, as JSON by name."""
    error: RunError | None = None

    def told(self) -> str:
        """Where it stands, as JSON for the code."""
        error: Mapping[str, Any] | None = None
        if self.error is not None:
            facts = dict(self.error.metadata)
            error = {"reason": int(self.error.reason), "message": self.error.message, "facts": facts}
        standing = {
            "try": self.retried + 1,
            "begun": self.begun_us / 1_000_000,
            "ended": self.ended_us / 1_000_000,
            "state": self.state,
            "handled": self.handled,
            "output": json.loads(self.output_json),
            "values": {name: json.loads(value) for name, value in self.values.items()},
            "error": error,
        }
        return json.dumps(standing, ensure_ascii=False)


_ENDS = ("step_skipped", "step_completed", "step_failed")


class CodeSteps:
    """Folds the events of steps."""

    def __init__(self) -> None:
        self.by_name: dict[str, CodeStep] = {}

    def step(self, name: str) -> CodeStep:
        """A step; one that has not begun where nothing is known of it."""
        return self.by_name.setdefault(name, CodeStep())

    def set(self, name: str, value_name: str, value_json: str) -> None:
        """A step has set a value."""
        self.step(name).values[value_name] = value_json

    def apply(self, event: event_pb2.RunEvent) -> None:
        """Take in an event of a step."""
        which = event.WhichOneof("event")
        if which in _ENDS:
            self.step(getattr(event, which).step).ended_us = event.time.ToMicroseconds()
        match which:
            case "step_started":
                step = self.step(event.step_started.step)
                step.started = event.step_started.attempt
                step.begun_us = step.begun_us or event.time.ToMicroseconds()
            case "step_skipped":
                self.step(event.step_skipped.step).state = "skipped"
            case "step_retrying":
                self.step(event.step_retrying.step).retried = event.step_retrying.attempt
            case "step_completed":
                step = self.step(event.step_completed.step)
                step.state, step.output_json = "completed", event.step_completed.output_json
            case "step_failed":
                step = self.step(event.step_failed.step)
                step.state, step.error = "failed", event.step_failed.error
                step.handled = event.step_failed.policy == STEP_ERROR_POLICY_CONTINUE


def is_news(step: CodeStep, report: CodeStepReport) -> bool:
    """Whether a report says something that is not known; what was said before stands."""
    phase = report.phase
    if phase == call_pb2.STEP_PHASE_COMPLETED and report.handled:
        return step.state == "failed" and step.handled
    if step.state != "open" or not phase:
        return False
    if phase == call_pb2.STEP_PHASE_STARTED:
        return report.attempt > step.started
    return phase != call_pb2.STEP_PHASE_RETRYING or report.attempt > step.retried


def event_of(report: CodeStepReport) -> dict[str, Any]:
    """The event that a report becomes, by its name. Raises InvalidArgumentError."""
    name, attempt = report.step, report.attempt
    match report.phase:
        case call_pb2.STEP_PHASE_STARTED:
            started = event_pb2.StepStarted(step=name, attempt=attempt, input=report.input)
            return {"step_started": started}
        case call_pb2.STEP_PHASE_SKIPPED:
            return {"step_skipped": event_pb2.StepSkipped(step=name, reason=report.reason)}
        case call_pb2.STEP_PHASE_RETRYING:
            retrying = event_pb2.StepRetrying(
                step=name, attempt=attempt, error=report.error, delay=report.delay
            )
            return {"step_retrying": retrying}
        case call_pb2.STEP_PHASE_COMPLETED:
            output_json = report.output_json or "null"
            completed = event_pb2.StepCompleted(
                step=name, output_json=output_json, attempts=attempt, fallback=report.handled
            )
            return {"step_completed": completed}
        case call_pb2.STEP_PHASE_FAILED:
            policy = STEP_ERROR_POLICY_CONTINUE if report.handled else STEP_ERROR_POLICY_FAIL
            failed = event_pb2.StepFailed(step=name, error=report.error, policy=policy, attempts=attempt)
            return {"step_failed": failed}
        case _:
            raise InvalidArgumentError(f"{report.phase} is no phase of a step: use those of StepPhase")
