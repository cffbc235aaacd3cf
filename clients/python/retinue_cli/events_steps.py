"""The steps of a workflow as people read them."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from retinue_cli.wording import seconds

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from retinue.engine.v1 import event_pb2

_CONTINUE, _FALLBACK = 2, 3
"""StepErrorPolicy, without importing the stubs."""


class Say(Protocol):
    """Prints a line of parts, each with its style."""

    def __call__(self, *parts: tuple[str, str], indent: int = 0) -> None: ...


class StepLines:
    """Prints the events of steps: a method for each kind."""

    def __init__(self, say: Say, line_of: Callable[[str], str]) -> None:
        self._say = say
        self._line_of = line_of

    def step_started(self, step: "event_pb2.StepStarted") -> None:
        what = " · in its place" if step.fallback else f" · try {step.attempt}" if step.attempt > 1 else ""
        asked = f"{what} {self._line_of(step.input)}".rstrip()
        self._say(("▸ ", "cyan"), (step.step, "bold cyan"), (asked, "dim"))

    def step_skipped(self, step: "event_pb2.StepSkipped") -> None:
        self._say(("▹ ", "dim"), (step.step, "dim"), (f" left out: {step.reason}", "dim"))

    def step_retrying(self, step: "event_pb2.StepRetrying") -> None:
        self._say((f"(the step {step.step} failed and is tried again in {_span(step.delay)})", "yellow"))
        self._say((self._line_of(step.error.message), "yellow"), indent=2)

    def route_taken(self, taken: "event_pb2.RouteTaken") -> None:
        self._say(("↳ ", "cyan"), (taken.route, "bold cyan"), (f" {taken.reason}", "dim"))

    def loop_round(self, began: "event_pb2.LoopRound") -> None:
        self._say((f"(round {began.round} of {began.step})", "dim"))

    def branch_opened(self, branch: "event_pb2.BranchOpened") -> None:
        self._say((f"(branch {branch.branch} of {branch.step} begins)", "dim"))

    def branch_joined(self, branch: "event_pb2.BranchJoined") -> None:
        self._say((f"(branch {branch.branch} comes to {branch.step})", "dim"))

    def branch_abandoned(self, branch: "event_pb2.BranchAbandoned") -> None:
        why = f": {self._line_of(branch.error.message)}" if branch.HasField("error") else ""
        said = f"(branch {branch.branch} of {branch.step} is given up: {branch.reason}{why})"
        self._say((said, "yellow"))

    def memory_written(self, written: "event_pb2.MemoryWritten") -> None:
        self._say((f"(kept as {written.memory.memory_id})", "dim"))

    def step_completed(self, step: "event_pb2.StepCompleted") -> None:
        value = json.loads(step.output_json)
        output = value if isinstance(value, str) else step.output_json
        took = "from the run before" if step.restored else _span(step.duration)
        self._say(("◂ ", "green"), (step.step, "bold green"), (f" {took}", "dim"))
        self._say((self._line_of(output), "dim"), indent=2)

    def step_failed(self, step: "event_pb2.StepFailed") -> None:
        then = {_CONTINUE: "; the workflow goes on", _FALLBACK: "; its fallback runs"}.get(step.policy, "")
        self._say(("✗ ", "red"), (step.step, "bold red"), (f" {_span(step.duration)}{then}", "dim"))
        self._say((self._line_of(step.error.message), "red"), indent=2)


def _span(duration: "Duration") -> str:
    return seconds(duration.seconds + duration.nanos / 1e9)
