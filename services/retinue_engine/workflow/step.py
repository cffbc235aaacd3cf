"""One step of a workflow: left out, tried as often as it may be, done or failed."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Collection
from typing import Any

from retinue.engine.v1 import event_pb2
from retinue.errors import (
    BudgetExceededError,
    ClaimLostError,
    RetinueError,
    StepTimeoutError,
    error_from_facts,
    reason_name,
)
from retinue.registry.v1 import workflow_pb2
from retinue_engine.agent.spent import add_cost, add_usage
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.workflow.acting import Acting, WorkOn
from retinue_engine.workflow.definition import Action, StepDefinition
from retinue_engine.workflow.progress import StepProgress
from retinue_engine.workflow.result import StepResult
from retinue_engine.workflow.sharing import check_size, settled
from retinue_engine.workflow.values import as_json, as_text, evaluate, truth
from retinue_engine.workflow.variables import variables

_POLICIES = {
    "fail": workflow_pb2.STEP_ERROR_POLICY_FAIL,
    "continue": workflow_pb2.STEP_ERROR_POLICY_CONTINUE,
    "fallback": workflow_pb2.STEP_ERROR_POLICY_FALLBACK,
}


NamesBefore = Callable[[str], Collection[str]]


class Step:
    """One step of a run at work."""

    def __init__(
        self,
        run: WorkflowRun,
        step: StepDefinition,
        given: Any,
        before: Any,
        work_on: WorkOn,
        names_before: NamesBefore | None = None,
    ) -> None:
        """`given` is the workflow's input; `before` what the step is asked where it has no input.

        `names_before` tells the nodes of a graph that come before one; in a linear workflow all do.
        """
        self._run = run
        self._step = step
        self._input = given
        self._before = before
        self._names_before = names_before
        self._acting = Acting(run, step.name, work_on)

    async def advance(self) -> bool:
        """Take it as far as it can go now; whether the workflow goes on behind it.

        Raises the step's error where that fails the workflow.
        """
        # A step may have nothing to wait for, and there may be thousands: others come to their turn.
        await asyncio.sleep(0)
        known = self._begin()
        while not known.done:
            try:
                if known.state == "waiting" and not await self._try_again(known):
                    return False
                result = await self._try(known)
                if result is None:
                    return False
                self._complete(known, result)
            except (ClaimLostError, BudgetExceededError):
                raise
            except RetinueError as error:
                if not self._retry(known, error):
                    self.fail(error)
        return True

    def _begin(self) -> StepProgress:
        """Where it is; begun, left out or failed now where it was not known before."""
        name = self._step.name
        known = self._run.state.steps.get(name)
        if known is not None:
            return known
        try:
            condition = self._step.condition
            if condition and not truth(condition, self._values(), name):
                return self.skip(f"its condition is false: {condition}")
            return self._start(attempt=1, fallback=False)
        except RetinueError as error:
            return self.fail(error)

    def skip(self, reason: str) -> StepProgress:
        """Leave it out, or what is left of it."""
        self._acting.abandon(f"step:{self._step.name}", reason)
        return self._emit(step_skipped=event_pb2.StepSkipped(step=self._step.name, reason=reason))

    async def _try_again(self, known: StepProgress) -> bool:
        """Wait for the next try and begin it; False where the run is to pause."""
        await asyncio.sleep(max(0.0, (known.due_us - _now_us()) / 1_000_000))
        if self._run.work.paused():
            return False
        self._start(attempt=known.attempt + 1, fallback=known.fallback)
        return True

    def _values(self) -> dict[str, Any]:
        return variables(self._run, self._input)

    def _emit(self, **what: object) -> StepProgress:
        self._run.emit(f"step:{self._step.name}", **what)
        return self._run.state.steps[self._step.name]

    def _start(self, *, attempt: int, fallback: bool) -> StepProgress:
        started = event_pb2.StepStarted(step=self._step.name, attempt=attempt, fallback=fallback)
        action = self._action(fallback=fallback)
        started.input = self._acting.asked(action, self._values(), as_text(self._before))
        return self._emit(step_started=started)

    def _action(self, *, fallback: bool) -> Action:
        step = self._step
        return step.fallback if fallback and step.fallback is not None else step.action

    async def _try(self, known: StepProgress) -> StepResult | None:
        """What this try gives; None where it waits. Raises why it fails."""
        action = self._action(fallback=known.fallback)
        place = _place(self._step.name, known.attempt, fallback=known.fallback)
        limit_s = self._step.timeout_s
        if limit_s is None:
            return await self._acting.act(action, place, self._values(), known.asked)
        left_s = limit_s - (_now_us() - known.tried_us) / 1_000_000
        try:
            async with asyncio.timeout(max(0.0, left_s)) as limit:
                return await self._acting.act(action, place, self._values(), known.asked)
        except TimeoutError:
            if not limit.expired():
                raise
            self._acting.abandon(place, "the timeout of its step is over")
            raise StepTimeoutError(
                f"the step took longer than its timeout of {limit_s:g} s: raise it, or let the step do less",
                step=self._step.name,
                timeout_s=f"{limit_s:g}",
            ) from None

    def _complete(self, known: StepProgress, result: StepResult) -> None:
        name, output = self._step.name, result.value
        values: dict[str, Any] = {}
        if self._step.output or self._step.changes:
            values = {**self._values(), "result": {"text": result.text, "structured": result.structured}}
        if self._step.output:
            output = evaluate(self._step.output, values, name, "output")
        completed = event_pb2.StepCompleted(
            step=name,
            output_json=as_json(output, name),
            attempts=known.attempt,
            fallback=known.fallback,
            state_json=self._changes(values),
        )
        self._add_sums(known, completed)
        self._emit(step_completed=completed)

    def _changes(self, values: dict[str, Any]) -> str:
        """What it sets in the state, as JSON. Raises StateConflictError, PayloadTooLargeError."""
        step, state = self._step, self._run.state
        if not step.changes:
            return ""
        changes = {
            key: evaluate(source, values, step.name, f"set.{key}") for key, source in step.changes.items()
        }
        others: dict[str, set[str]] = {}
        if self._names_before is not None and not state.writers.keys().isdisjoint(changes):
            before = {step.name, *self._names_before(step.name)}
            others = {key: set(state.writers.get(key, ())) - before for key in changes}
        changes = settled(step.name, changes, state.shared, others, self._run.definition.on_conflict)
        check_size({**state.shared, **changes}, step.name)
        return json.dumps(changes, ensure_ascii=False)

    def _retry(self, known: StepProgress, error: RetinueError) -> bool:
        """Whether the step is tried again, which is said then."""
        retry = self._step.retry
        if known.fallback or known.attempt >= retry.attempts or reason_name(error.reason) not in retry.errors:
            return False
        longest_s = min(retry.max_backoff_s, retry.backoff_s * 2 ** (known.attempt - 1))
        retrying = event_pb2.StepRetrying(step=self._step.name, attempt=known.attempt, error=run_error(error))
        set_seconds(retrying.delay, random.uniform(longest_s / 2, longest_s))  # noqa: S311 - spreads runs
        self._emit(step_retrying=retrying)
        return True

    def fail(self, error: RetinueError) -> StepProgress:
        """Say that the step has failed for good. Raises where that fails the workflow."""
        name = self._step.name
        known = self._run.state.steps.get(name) or StepProgress(name)
        policy = self._step.policy
        if policy == "fallback" and known.fallback:
            # What runs in its place has nothing in its own.
            policy = "fail"
        if policy == "fail" and self._step.goes_on:
            policy = "continue"
        failed = event_pb2.StepFailed(
            step=name, error=run_error(error), policy=_POLICIES[policy], attempts=known.attempt
        )
        self._add_sums(known, failed)
        now = self._emit(step_failed=failed)
        if policy == "fail":
            raise error_from_facts(error.reason, f"the step {name} failed: {error.message}", error.facts)
        return now

    def _add_sums(self, known: StepProgress, event: event_pb2.StepCompleted | event_pb2.StepFailed) -> None:
        """What the step's tries took: the runs in it hold what those inside them used."""
        tree = self._run.work.tree
        for child in tree.children_of_step(self._run.run_id, f"step:{self._step.name}"):
            add_usage(event.usage, child.state.spent.usage)
            add_cost(event.cost, child.state.spent.cost)
        if known.begun_us:
            set_seconds(event.duration, (_now_us() - known.begun_us) / 1_000_000)


def _place(step: str, attempt: int, *, fallback: bool) -> str:
    return f"step:{step}/fallback" if fallback else f"step:{step}/try:{attempt}"


def _now_us() -> int:
    return time.time_ns() // 1000
