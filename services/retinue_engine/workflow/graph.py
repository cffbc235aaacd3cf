"""A graph workflow: its nodes side by side, each when the edges that lead to it say so."""

import asyncio
import heapq
import time
from collections import deque
from typing import Any

from retinue.engine.v1 import event_pb2
from retinue.errors import RetinueError
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.workflow.acting import WorkOn
from retinue_engine.workflow.deadlines import after
from retinue_engine.workflow.definition import EdgeDefinition, StepDefinition
from retinue_engine.workflow.edges import Arrival, Graph
from retinue_engine.workflow.ends import finish, read_input
from retinue_engine.workflow.side_by_side import SideBySide
from retinue_engine.workflow.step import Step
from retinue_engine.workflow.values import truth
from retinue_engine.workflow.variables import variables

NO_WAY = "no edge that leads to it was taken"
NOT_NEEDED = "what it leads to has begun without it"


class GraphLoop:
    """One run of a graph workflow. A run that is taken up again goes on with the nodes that had begun.

    The end of a node is looked at once, and decides the edges that lead from it: a graph costs as much as it
    has nodes and edges.
    """

    def __init__(self, run: WorkflowRun, work_on: WorkOn) -> None:
        self._run = run
        self._work_on = work_on
        self._graph = Graph(run.definition)
        self._arrivals: dict[str, Arrival] = {}
        self._taken_from: dict[str, int] = {}
        """How many edges were taken from each node that is done."""
        self._ready: deque[str] = deque()
        """Nodes that may begin, or go on."""
        self._begun: set[str] = set()
        """Those that were among them."""
        self._ended: deque[str] = deque()
        """Nodes whose end has not been looked at."""
        self._late: list[tuple[int, str]] = []
        """When the time of joins is over, the first at the top."""
        self._input: Any = None
        self._running: SideBySide[str, bool] = SideBySide()
        self._waiting: list[str] = []
        """Nodes that wait for somebody outside."""
        self._failure: Exception | None = None
        self.structured_json = ""
        """The workflow's output as JSON, where it is not just text."""

    async def run(self) -> bool:
        """Go on until no node is left; whether that is so.

        False where those that are left wait for somebody outside or the run is to pause. Raises the error of
        a node that fails the workflow.
        """
        run = self._run
        self._input = read_input(run.definition, run.state.message)
        self._take_up()
        try:
            await self._work()
        finally:
            await self._running.aclose()
        if self._failure:
            raise self._failure
        if len(run.state.ended) < len(run.definition.steps):
            return False
        self.structured_json = finish(run, self._input, self._last_output())
        return True

    async def _work(self) -> None:
        arrivals = self._run.work.arrivals
        seen = arrivals.count
        arrival = self._next_arrival()
        try:
            while True:
                if seen != arrivals.count:
                    # What waited for an answer may have it now.
                    seen = arrivals.count
                    arrival = self._next_arrival()
                    self._ready.extend(self._waiting)
                    self._waiting.clear()
                if not self._failure:
                    self._go_on()
                if not len(self._running):
                    return
                for name, task in await self._running.news(self._longest_s()):
                    if not task.cancelled():
                        self._take(name, task)
        finally:
            arrival.cancel()

    def _next_arrival(self) -> "asyncio.Future[None]":
        arrival = self._run.work.arrivals.next()
        arrival.add_done_callback(lambda _: self._running.wake())
        return arrival

    def _take_up(self) -> None:
        """What the journal says: the ends of nodes decide what they decided before."""
        state = self._run.state
        self._arrivals = {name: Arrival(len(edges)) for name, edges in self._graph.incoming.items()}
        self._ready.extend(
            step.name
            for step in self._run.definition.steps
            if not ((known := state.steps.get(step.name)) and known.done)
            and (known or not self._arrivals[step.name].edges)
        )
        self._ended.extend(state.ended)

    def _go_on(self) -> None:
        """Look at the nodes that have ended, and begin what may begin; what follows from that too."""
        while not self._run.work.paused() and not self._failure:
            if self._ended:
                self._decide(self._ended.popleft())
            elif self._late and self._late[0][0] <= _now_us():
                self._look_at(heapq.heappop(self._late)[1], late=True)
            elif self._ready and len(self._running) < self._run.definition.concurrency:
                self._begin(self._ready.popleft())
            else:
                return

    def _longest_s(self) -> float | None:
        if not self._late or self._failure or self._run.work.paused():
            return None
        return max(0.0, (self._late[0][0] - _now_us()) / 1_000_000)

    def _decide(self, name: str) -> None:
        """Take the edges that the end of a node opens."""
        taken = []
        for number, edge in self._graph.outgoing[name]:
            arrival = self._arrivals[edge.target]
            arrival.decided += 1
            try:
                if self._is_taken(edge):
                    arrival.taken.append((number, edge))
                    arrival.first_us = arrival.first_us or self._run.state.steps[name].done_us
                    taken.append(edge)
            except RetinueError as error:
                self._fail(edge.target, error)
        self._taken_from[name] = len(taken)
        if len(taken) > 1:
            for edge in taken:
                self._tell_opened(edge)
        for _, edge in self._graph.outgoing[name]:
            self._look_at(edge.target)

    def _is_taken(self, edge: EdgeDefinition) -> bool:
        """Whether an edge is taken whose source is done. Raises ExpressionFailedError."""
        source = self._run.state.steps[edge.source]
        if source.state == "skipped":
            return False
        if edge.after != "always" and (source.state == "failed") != (edge.after == "failure"):
            return False
        if edge.route and source.route != edge.route:
            return False
        if not edge.when:
            return True
        # With the state as it was then: a run that is taken up again decides the same.
        return truth(edge.when, variables(self._run, self._input, source.shared), edge.target, "when")

    def _tell_opened(self, edge: EdgeDefinition) -> None:
        if f"{edge.source}>{edge.target}" not in self._run.state.branches:
            opened = event_pb2.BranchOpened(step=edge.source, branch=edge.target)
            self._run.emit(f"step:{edge.source}", branch_opened=opened)

    def _look_at(self, name: str, *, late: bool = False) -> None:
        """Begin a node or leave it out where that is decided; `late` where the time of its join is over."""
        if name in self._run.state.steps:
            return
        step, arrival = self._run.definition.by_name[name], self._arrivals[name]
        try:
            decided = arrival.verdict(step, late=late)
        except RetinueError as error:
            self._fail(name, error)
            return
        if decided == "skip":
            self._step(step, None).skip(NO_WAY)
            self._ended.append(name)
        elif decided == "begin":
            if name not in self._begun:
                self._begun.add(name)
                self._ready.append(name)
        elif len(arrival.taken) == 1 and step.join.timeout_s is not None:
            heapq.heappush(self._late, (after(arrival.first_us, step.join.timeout_s), name))

    def _begin(self, name: str) -> None:
        step = self._run.definition.by_name[name]
        known = self._run.state.steps.get(name)
        if known and known.done:
            return
        arrival = self._arrivals[name]
        if not known and arrival.edges > 1:
            for edge in arrival.in_order():
                if f"{name}>{edge.source}" not in self._run.state.closed:
                    joined = event_pb2.BranchJoined(step=name, branch=edge.source)
                    self._run.emit(f"step:{name}", branch_joined=joined)
            if step.join.cancel_rest:
                self._leave_out_rest(step)
        self._running.start(name, self._step(step, self._before(step)).advance())

    def _step(self, step: StepDefinition, before: Any) -> Step:
        return Step(self._run, step, self._input, before, self._work_on, self._before_names)

    def _before_names(self, name: str) -> set[str]:
        return self._graph.before(name)

    def _fail(self, name: str, error: RetinueError) -> None:
        """A node that fails before it begins fails like any other."""
        if name in self._run.state.steps:
            return
        try:
            known = self._step(self._run.definition.by_name[name], None).fail(error)
            # Its fallback may run in its place.
            (self._ended if known.done else self._ready).append(name)
        except RetinueError as failure:
            self._note_failure(name, failure)

    def _take(self, name: str, task: "asyncio.Task[bool]") -> None:
        error = task.exception()
        if error is None:
            if task.result():
                self._ended.append(name)
            else:
                self._waiting.append(name)
        elif not isinstance(error, Exception):
            raise error
        else:
            self._note_failure(name, error)

    def _note_failure(self, name: str, error: Exception) -> None:
        self._failure = self._failure or error
        if self._run.definition.waits_for_all and isinstance(error, RetinueError):
            return
        if isinstance(error, RetinueError):
            for other in self._running.at_work():
                self._tell_abandoned(name, other, f"the node {name} failed")
        self._running.cancel_all()

    def _tell_abandoned(self, step: str, branch: str, reason: str) -> None:
        given_up = event_pb2.BranchAbandoned(step=step, branch=branch, reason=reason)
        self._run.emit(f"step:{branch}", branch_abandoned=given_up)

    def _leave_out_rest(self, step: StepDefinition) -> None:
        """Cancel the nodes that lead nowhere but to this one and have not ended."""
        for name in self._graph.only_before(step.name):
            known = self._run.state.steps.get(name)
            if known and known.done:
                continue
            self._running.cancel(name)
            if known:
                self._tell_abandoned(step.name, name, NOT_NEEDED)
            self._step(self._run.definition.by_name[name], None).skip(NOT_NEEDED)
            self._ended.append(name)

    def _before(self, step: StepDefinition) -> Any:
        """What a node is asked that has no input of its own."""
        steps, taken = self._run.state.steps, self._arrivals[step.name].in_order()
        if step.join.merge == "list":
            return [steps[edge.source].output for edge in taken]
        if step.join.merge == "object":
            return {edge.source: steps[edge.source].output for edge in taken}
        return steps[taken[0].source].output if taken else self._input

    def _last_output(self) -> Any:
        """The output of the node that ended last of those from which no edge was taken."""
        state = self._run.state
        for name in reversed(state.ended):
            if state.steps[name].state == "completed" and not self._taken_from.get(name):
                return state.steps[name].output
        return None


def _now_us() -> int:
    return time.time_ns() // 1000
