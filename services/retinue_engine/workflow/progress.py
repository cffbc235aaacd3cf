"""How far a workflow run is, as its events tell: the same when they happen and when they are read again."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from google.protobuf.duration_pb2 import Duration

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2
from retinue.engine.v1.memory_pb2 import Memory
from retinue.registry.v1.workflow_pb2 import STEP_ERROR_POLICY_FALLBACK
from retinue_engine.agent.conversation import Asked
from retinue_engine.agent.spent import Spent

State = Literal["open", "waiting", "completed", "skipped", "failed"]


@dataclass(slots=True)
class StepProgress:
    """One step that has begun, or was left out."""

    name: str
    state: State = "open"
    """waiting: for its next try."""
    attempt: int = 0
    """The last try that began."""
    fallback: bool = False
    """Whether it is the fallback that runs, or ran."""
    begun_us: int = 0
    """When its first try began."""
    tried_us: int = 0
    """When its last try began."""
    due_us: int = 0
    """When its next try may begin."""
    asked: str = ""
    """What its last try was asked."""
    route: str = ""
    """Of a router: the one that was taken."""
    rounds: int = 0
    """Of a loop: how many have begun in its last try."""
    output: Any = None
    error: str = ""
    reason: str = ""
    """Why it was left out."""
    done_us: int = 0
    """When it was done."""
    changes: dict[str, Any] | None = None
    """What it set in the state; None: nothing."""
    shared: dict[str, Any] | None = None
    """The state as it was when it was done."""
    duration: Duration | None = None
    usage: Usage | None = None
    cost: Cost | None = None

    @property
    def done(self) -> bool:
        """Whether the workflow goes on behind it."""
        return self.state in {"completed", "skipped", "failed"}


class Progress:
    """Folds a workflow run's own events."""

    # What a run of agents has beside: calls that are under way count in the budgets above.
    open_turn: ClassVar[int] = 0
    finish_reason: ClassVar[str] = ""
    repairs: ClassVar[int] = 0

    def __init__(self, message: str, spent: Spent | None = None, state_json: str = "") -> None:
        self.message = message
        self.spent = spent or Spent()
        self.steps: dict[str, StepProgress] = {}
        """Those that have begun or were left out, in that order."""
        self.values: dict[str, dict[str, Any]] = {}
        """What expressions see of the steps that are done."""
        self.shared: dict[str, Any] = json.loads(state_json) if state_json else {}
        """The state; never changed in place."""
        self.writers: dict[str, list[str]] = {}
        """For each key of the state the steps that have set it."""
        self.branches: dict[str, int] = {}
        """When branches began, by their places."""
        self.closed: set[str] = set()
        """The places of those that have come to where they are needed, or were given up."""
        self.written: dict[str, Memory] = {}
        """The texts that steps have kept, by the places of their tries."""
        self.last_output: Any = None
        """That of the last step that ran; None before."""
        self.any_output = False
        """Whether there is one."""
        self.started: dict[str, int] = {}
        """The tool calls under way, by id, with the sequence of their start."""
        self.results: dict[str, event_pb2.ToolCallCompleted] = {}
        """How the tool calls ended, by id."""
        self.asked: dict[str, Asked] = {}
        """The questions to people, by the place of their try."""
        self.ended: list[str] = []
        """The steps that are done, in the order in which they ended."""
        self.output = ""
        """The workflow's, as text; set when it is done."""
        self.succeeded = False
        self.restored_whole = False
        """Whether what the run that this one goes on from had done is there, and more may be."""

    @property
    def unanswered(self) -> Collection[str]:
        """The tool calls under way, and the questions that have no answer."""
        return [*self.started, *(place for place, each in self.asked.items() if each.answer is None)]

    def apply(self, event: event_pb2.RunEvent) -> None:
        """Take in one event of the run."""
        which = event.WhichOneof("event")
        apply = self._APPLY.get(which) if which else None
        if apply is not None:
            apply(self, event)

    def _step(self, name: str) -> StepProgress:
        return self.steps.setdefault(name, StepProgress(name))

    def _step_started(self, event: event_pb2.RunEvent) -> None:
        started = event.step_started
        # Before a run begins a step of its own, all has come that it was given.
        self.restored_whole = True
        step = self._step(started.step)
        step.state, step.attempt, step.fallback = "open", started.attempt, started.fallback
        step.asked, step.rounds = started.input, 0
        step.tried_us = event.time.ToMicroseconds()
        step.begun_us = step.begun_us or step.tried_us

    def _done(self, step: StepProgress, state: State, event: event_pb2.RunEvent) -> None:
        step.state = state
        step.done_us = event.time.ToMicroseconds()
        step.shared = self.shared
        self.ended.append(step.name)
        self.values[step.name] = {"output": step.output, "state": state, "error": step.error}

    def _step_skipped(self, event: event_pb2.RunEvent) -> None:
        step = self._step(event.step_skipped.step)
        step.reason = event.step_skipped.reason
        self._done(step, "skipped", event)

    def _step_retrying(self, event: event_pb2.RunEvent) -> None:
        retrying = event.step_retrying
        step = self._step(retrying.step)
        step.state = "waiting"
        step.due_us = event.time.ToMicroseconds() + retrying.delay.ToMicroseconds()

    def _step_completed(self, event: event_pb2.RunEvent) -> None:
        completed = event.step_completed
        step = self._step(completed.step)
        step.output = json.loads(completed.output_json)
        step.fallback = completed.fallback
        self.last_output, self.any_output = step.output, True
        if completed.state_json:
            step.changes = json.loads(completed.state_json)
            self.shared = {**self.shared, **step.changes}
            for key in step.changes:
                self.writers.setdefault(key, []).append(step.name)
        _add_sums(step, completed)
        self._done(step, "completed", event)

    def _step_failed(self, event: event_pb2.RunEvent) -> None:
        failed = event.step_failed
        step = self._step(failed.step)
        step.error = failed.error.message
        if failed.policy == STEP_ERROR_POLICY_FALLBACK:
            step.state, step.fallback, step.attempt, step.due_us = "waiting", True, 0, 0
        else:
            _add_sums(step, failed)
            self._done(step, "failed", event)

    def _tool_call_started(self, event: event_pb2.RunEvent) -> None:
        self.started[event.tool_call_started.call_id] = event.sequence

    def _tool_call_completed(self, event: event_pb2.RunEvent) -> None:
        completed = event.tool_call_completed
        self.spent.add_tool_call()
        self.started.pop(completed.call_id, None)
        self.results[completed.call_id] = completed

    def _route_taken(self, event: event_pb2.RunEvent) -> None:
        self._step(event.route_taken.step).route = event.route_taken.route

    def _loop_round(self, event: event_pb2.RunEvent) -> None:
        self._step(event.loop_round.step).rounds = event.loop_round.round

    def _branch_opened(self, event: event_pb2.RunEvent) -> None:
        opened = event.branch_opened
        self.branches[branch_place(event.path, opened.step, opened.branch)] = event.time.ToMicroseconds()

    def _branch_joined(self, event: event_pb2.RunEvent) -> None:
        joined = event.branch_joined
        self.closed.add(branch_place(event.path, joined.step, joined.branch))

    def _branch_abandoned(self, event: event_pb2.RunEvent) -> None:
        given_up = event.branch_abandoned
        self.closed.add(branch_place(event.path, given_up.step, given_up.branch))

    def _memory_written(self, event: event_pb2.RunEvent) -> None:
        self.written[event.path] = event.memory_written.memory

    def _input_requested(self, event: event_pb2.RunEvent) -> None:
        request = event.input_requested.request
        self.asked[request.call_id] = Asked(request)

    def _input_received(self, event: event_pb2.RunEvent) -> None:
        received = event.input_received
        for asked in self.asked.values():
            if asked.request.input_id == received.input_id:
                asked.answer = received.answer
                asked.answered_at = event.sequence

    def requests(self) -> list[Asked]:
        """Its questions to people."""
        return list(self.asked.values())

    def session_messages(self) -> list[str]:
        """What the session is given, as JSON: the question and the answer, where there is one."""
        if not self.succeeded:
            return []
        return [
            json.dumps({"role": role, "content": text}, ensure_ascii=False)
            for role, text in (("user", self.message), ("assistant", self.output))
        ]

    _APPLY: ClassVar[Mapping[str, Callable[["Progress", event_pb2.RunEvent], None]]] = {
        "step_started": _step_started,
        "step_skipped": _step_skipped,
        "step_retrying": _step_retrying,
        "step_completed": _step_completed,
        "step_failed": _step_failed,
        "tool_call_started": _tool_call_started,
        "tool_call_completed": _tool_call_completed,
        "route_taken": _route_taken,
        "loop_round": _loop_round,
        "branch_opened": _branch_opened,
        "branch_joined": _branch_joined,
        "branch_abandoned": _branch_abandoned,
        "memory_written": _memory_written,
        "input_requested": _input_requested,
        "input_received": _input_received,
    }


def branch_place(path: str, step: str, branch: str) -> str:
    """What tells a branch from all others: the path of an item, the names of a node and its fork or join."""
    return path if ":" in branch else f"{step}>{branch}"


def _add_sums(step: StepProgress, event: event_pb2.StepCompleted | event_pb2.StepFailed) -> None:
    # Copies: a part of a message keeps all of it.
    step.duration, step.usage, step.cost = Duration(), Usage(), Cost()
    step.duration.CopyFrom(event.duration)
    step.usage.CopyFrom(event.usage)
    step.cost.CopyFrom(event.cost)
