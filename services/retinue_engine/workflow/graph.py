"""A graph workflow: its nodes side by side, each when the edges that lead to it say so."""

import asyncio
from collections.abc import Iterator
from typing import Any

from retinue.errors import RetinueError
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.workflow.acting import WorkOn
from retinue_engine.workflow.definition import StepDefinition
from retinue_engine.workflow.edges import Graph, taken_edges, verdict
from retinue_engine.workflow.ends import finish, read_input
from retinue_engine.workflow.step import Step

NO_WAY = "no edge that leads to it was taken"
NOT_NEEDED = "what it leads to has begun without it"


class GraphLoop:
    """One run of a graph workflow. A run that is taken up again goes on with the nodes that had begun."""

    def __init__(self, run: WorkflowRun, work_on: WorkOn) -> None:
        self._run = run
        self._work_on = work_on
        self._graph = Graph.of(run.definition)
        self._input: Any = None
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._waiting: set[str] = set()
        """Nodes that wait for somebody outside."""
        self._failure: Exception | None = None
        self.structured_json = ""
        """The workflow's output as JSON, where it is not just text."""

    async def run(self) -> bool:
        """Go on until no node is left; whether that is so.

        False where those that are left wait for somebody outside or the run is to pause. Raises the error of
        a node that fails the workflow.
        """
        run, arrivals = self._run, self._run.work.arrivals
        self._input = read_input(run.definition, run.state.message)
        seen = arrivals.count
        try:
            while True:
                if seen != arrivals.count:
                    # What waited for an answer may have it now.
                    seen = arrivals.count
                    self._waiting.clear()
                if not self._failure:
                    self._start_ready()
                if not self._running:
                    break
                arrival = arrivals.next()
                waiting: set[asyncio.Future[Any]] = {*self._running.values(), arrival}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                arrival.cancel()
                self._take_ended()
        finally:
            await self._cancel(list(self._running))
        if self._failure:
            raise self._failure
        if len(run.state.ended) < len(run.definition.steps):
            return False
        self.structured_json = finish(run, self._input, self._last_output())
        return True

    def _start_ready(self) -> None:
        """Begin what may begin, and leave out what no way leads to; what follows from that too."""
        moved = True
        while moved and not self._run.work.paused():
            moved = False
            for step in self._open():
                if len(self._running) >= self._run.definition.concurrency:
                    return
                moved = self._look_at(step) or moved

    def _open(self) -> Iterator[StepDefinition]:
        steps = self._run.state.steps
        for step in self._run.definition.steps:
            known = steps.get(step.name)
            if (
                not (known and known.done)
                and step.name not in self._running
                and step.name not in self._waiting
            ):
                yield step

    def _look_at(self, step: StepDefinition) -> bool:
        """Begin a node or leave it out where that is decided; whether it was."""
        state = self._run.state
        node = Step(self._run, step, self._input, self._before(step), self._work_on)
        if step.name in state.steps:
            self._start(step, node)
            return True
        try:
            decided = verdict(step, self._graph, state, self._values())
            if decided == "skip":
                node.skip(NO_WAY)
            elif decided == "begin":
                if step.join.cancel_rest:
                    self._leave_out_rest(step)
                self._start(step, node)
        except RetinueError as error:
            self._note(error, node)
            return True
        return decided != "wait"

    def _note(self, error: RetinueError, node: Step) -> None:
        """A node that fails before it begins fails like any other."""
        try:
            node.fail(error)
        except RetinueError as failure:
            self._failure = self._failure or failure

    def _start(self, step: StepDefinition, node: Step) -> None:
        self._running[step.name] = asyncio.ensure_future(node.advance())

    def _take_ended(self) -> None:
        for name, task in list(self._running.items()):
            if not task.done():
                continue
            del self._running[name]
            if task.cancelled():
                continue
            error = task.exception()
            if error is None:
                if not task.result():
                    self._waiting.add(name)
            elif not isinstance(error, Exception):
                raise error
            else:
                self._failure = self._failure or error
        if self._failure and not (
            self._run.definition.waits_for_all and isinstance(self._failure, RetinueError)
        ):
            for task in self._running.values():
                task.cancel()

    def _leave_out_rest(self, step: StepDefinition) -> None:
        """Cancel the nodes that lead nowhere but to this one and have not ended."""
        names = self._graph.only_before(step.name)
        for other in self._run.definition.steps:
            known = self._run.state.steps.get(other.name)
            if other.name in names and not (known and known.done):
                task = self._running.pop(other.name, None)
                if task is not None:
                    task.cancel()
                Step(self._run, other, self._input, None, self._work_on).skip(NOT_NEEDED)

    async def _cancel(self, names: list[str]) -> None:
        tasks = [self._running.pop(name) for name in names]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _values(self) -> dict[str, Any]:
        run = self._run
        return {
            "input": self._input,
            "steps": run.state.values,
            "run": {"id": run.run_id, "depth": run.depth, "workflow": run.definition.name},
            "session": {"id": run.work.row.session_id},
        }

    def _before(self, step: StepDefinition) -> Any:
        """What a node is asked that has no input of its own."""
        state = self._run.state
        try:
            first = next(taken_edges(self._graph.incoming[step.name], state, self._values()), None)
        except RetinueError:
            return None  # it is said where it is decided whether the node begins
        return self._input if first is None else state.steps[first.source].output

    def _last_output(self) -> Any:
        """The output of the node that ended last of those from which no edge was taken."""
        state = self._run.state
        for name in reversed(state.ended):
            if state.steps[name].state != "completed":
                continue
            if not any(taken_edges(self._graph.outgoing[name], state, self._values())):
                return state.steps[name].output
        return None
