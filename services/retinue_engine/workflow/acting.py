"""One try of a step: what each kind of target does, once, whatever happens to the engine."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from retinue.engine.v1 import event_pb2, input_pb2
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED, RunResult
from retinue.errors import (
    BudgetExceededError,
    ClaimLostError,
    MaxIterationsReachedError,
    RetinueError,
    RouteUnknownError,
    StepTimeoutError,
    WorkflowFailedError,
    error_from_facts,
    reason_name,
)
from retinue.registry.v1.component_pb2 import ComponentRef
from retinue_engine.agent.child_runs import NO_SESSION, begin_child, end_child, finish_child
from retinue_engine.agent.inputs import emit_request
from retinue_engine.agent.tree import Child
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.outcome import cancelled, run_error
from retinue_engine.story.step_sessions import StepSession, session_of_step
from retinue_engine.workflow.branches import Branches
from retinue_engine.workflow.deadlines import after
from retinue_engine.workflow.definition import (
    Action,
    AskAction,
    EachAction,
    FailAction,
    FailoverAction,
    LoopAction,
    MemoryReadAction,
    MemoryWriteAction,
    RouterAction,
    RunAction,
    ToolAction,
    TransformAction,
)
from retinue_engine.workflow.memory_step import read_memory, write_memory
from retinue_engine.workflow.result import StepResult
from retinue_engine.workflow.tool_step import call_tool
from retinue_engine.workflow.values import as_json, as_text, evaluate, render, render_json, truth

WorkOn = Callable[[WorkflowRun, Child], Awaitable[RunResult | None]]
"""Works on a child of a run; None where it waits for somebody outside, or is to pause."""

Values = Mapping[str, Any]


_ASKING: Mapping[type[Any], str] = {
    AskAction: "question",
    MemoryWriteAction: "text",
    MemoryReadAction: "query",
}
"""The template of what an action asks, where it always has one."""


class Acting:
    """Does what the targets of one step's tries say."""

    def __init__(self, run: WorkflowRun, step: str, work_on: WorkOn) -> None:
        self._run = run
        self._step = step
        self._work_on = work_on

    def asked(self, action: Action, values: Values, default: str) -> str:
        """What an action asks, as text, `default` where it has no input; of a tool its arguments as JSON."""
        if isinstance(action, ToolAction):
            return as_json(render_json(dict(action.arguments), values, self._step, "arguments"), self._step)
        if isinstance(action, RunAction):
            template = action.input
            return default if template is None else render(template, values, self._step, "input")
        if field := _ASKING.get(type(action)):
            return render(getattr(action, field), values, self._step, field)
        if isinstance(action, RouterAction) and action.chooser:
            return _choice_of(action, self.asked(action.chooser, values, default))
        return default if isinstance(action, LoopAction | FailoverAction) else ""

    async def act(self, action: Action, place: str, values: Values, asked: str) -> StepResult | None:
        """What an action gives at a place; None where it waits. Raises why it fails.

        What was done at the place before is not done again.
        """
        do = self._DO[type(action)]
        return await do(self, action, place, values, asked)

    async def _call(self, action: ToolAction, place: str, _values: Values, asked: str) -> StepResult:
        return await call_tool(self._run, place, action, asked)

    async def _run_action(
        self, action: RunAction, place: str, _values: Values, asked: str
    ) -> StepResult | None:
        return await self._ask_run(action, place, asked)

    async def _transform(
        self, action: TransformAction, _place: str, values: Values, _asked: str
    ) -> StepResult:
        if action.expression:
            return StepResult.of(evaluate(action.expression, values, self._step, "expression"))
        return StepResult(render(action.template, values, self._step, "template"))

    async def _give_up(self, action: FailAction, _place: str, values: Values, _asked: str) -> StepResult:
        raise WorkflowFailedError(render(action.message, values, self._step, "message"), step=self._step)

    async def _write(self, action: MemoryWriteAction, place: str, values: Values, asked: str) -> StepResult:
        return await write_memory(self._run, place, action, asked, self._labels(action.labels, values))

    async def _read(self, action: MemoryReadAction, _place: str, values: Values, asked: str) -> StepResult:
        return await read_memory(self._run, action, asked, self._labels(action.labels, values))

    def _labels(self, labels: Mapping[str, str], values: Values) -> dict[str, str]:
        return {name: render(text, values, self._step, f"labels.{name}") for name, text in labels.items()}

    async def _ask_run(self, action: RunAction, place: str, asked: str) -> StepResult | None:
        run = self._run
        child = run.work.tree.child_of_call(run.run_id, run.place(place))
        if child is None:
            target = ComponentRef(kind=action.kind, name=action.name, version=action.version)
            session = await self._open_session(action, place)
            child = begin_child(run, target, asked, run.place(place), session=session)
        result = child.result
        if result is None:
            result = await self._work_on(run, child)
            if result is None:
                return None
            end_child(run.work, child, result)
        if result.state != RUN_STATE_SUCCEEDED:
            message = result.error.message or f"its run was cancelled: {result.cancel_reason}"
            raise error_from_facts(result.error.reason, message, result.error.metadata)
        # What is cut in the result stands whole in the child's state.
        structured = json.loads(result.structured_json) if result.structured_json else None
        return StepResult(child.state.output, structured)

    async def _open_session(self, action: RunAction, place: str) -> StepSession:
        """What is inside a call of an agent has no session, as that has none."""
        run = self._run
        if not run.session_id:
            return NO_SESSION
        definition = run.work.tree.callee(action.kind, action.name)
        return await run.work.open_step_session(session_of_step(run.session_id, place), definition)

    async def _ask(self, action: AskAction, place: str, _values: Values, question: str) -> StepResult | None:
        known = self._run.state.asked.get(place)
        if known is None:
            request = input_pb2.InputRequest(
                call_id=place, question=input_pb2.Question(text=question, schema_json=action.schema_json)
            )
            expire_us = time.time_ns() // 1000 + int(action.timeout_s * 1_000_000)
            emit_request(self._run, place, request, expire_us)
            return None
        answer = known.answer
        if answer is None:
            return None
        if answer.HasField("expired"):
            raise StepTimeoutError(
                f"nobody answered the question of the step {self._step} in time",
                step=self._step,
                timeout_s=f"{action.timeout_s:g}",
            )
        if answer.HasField("refuse"):
            raise WorkflowFailedError("the question was left without an answer", step=self._step)
        return StepResult.of(json.loads(answer.value_json))

    async def _choose(
        self, action: RouterAction, place: str, values: Values, asked: str
    ) -> StepResult | None:
        known = self._run.state.steps[self._step]
        if known.route:
            return StepResult(known.route)
        if action.chooser is None:
            fits = (each for each in action.routes if truth(each.when, values, self._step))
            route = next(fits, None)
            name = route.name if route else action.default
            reason = f"{route.when} is true" if route else "no other route's expression is true"
        else:
            result = await self._ask_run(action.chooser, place, asked)
            if result is None:
                return None
            name, reason = _chosen(action, result, self._step), f"{action.chooser.name} chose it"
        taken = event_pb2.RouteTaken(step=self._step, route=name, reason=reason)
        self._run.emit(f"step:{self._step}", route_taken=taken)
        return StepResult(name)

    async def _each(self, action: EachAction, place: str, values: Values, _asked: str) -> StepResult | None:
        items = evaluate(action.items, values, self._step, "items")
        if not isinstance(items, list):
            raise WorkflowFailedError(
                f"`items` of the step {self._step} must be a list, and is {as_text(items)[:200]}",
                step=self._step,
            )

        async def branch(index: int) -> StepResult | None:
            return await self._branch(action, place, index, {**values, "item": items[index], "index": index})

        def give_up(index: int, why: str) -> None:
            where = f"{place}/item:{index + 1}"
            if self._run.place(where) in self._run.state.closed:
                return
            self.abandon(where, why)
            given_up = event_pb2.BranchAbandoned(step=self._step, branch=f"item:{index + 1}", reason=why)
            self._run.emit(where, branch_abandoned=given_up)

        outputs = await Branches(len(items), branch, give_up, action).run()
        return None if outputs is None else StepResult.of(outputs)

    async def _branch(self, action: EachAction, place: str, index: int, values: Values) -> StepResult | None:
        """One branch of an `each`, which is told when it begins and when it ends."""
        name, where = f"item:{index + 1}", f"{place}/item:{index + 1}"
        state, key = self._run.state, self._run.place(where)
        if key not in state.branches:
            self._run.emit(where, branch_opened=event_pb2.BranchOpened(step=self._step, branch=name))
        try:
            async with self._time_of_branch(action, state.branches[key], where):
                asked = self.asked(action.action, values, as_text(values["item"]))
                result = await self.act(action.action, where, values, asked)
        except (ClaimLostError, BudgetExceededError):
            raise
        except RetinueError as error:
            if key not in state.closed:
                given_up = event_pb2.BranchAbandoned(
                    step=self._step, branch=name, reason="it failed", error=run_error(error)
                )
                self._run.emit(where, branch_abandoned=given_up)
            raise
        if result is not None and key not in state.closed:
            self._run.emit(where, branch_joined=event_pb2.BranchJoined(step=self._step, branch=name))
        return result

    @asynccontextmanager
    async def _time_of_branch(self, action: EachAction, begun_us: int, where: str) -> AsyncIterator[None]:
        """Raises StepTimeoutError once the branch has had its time."""
        limit_s = action.branch_timeout_s
        if limit_s is None:
            yield
            return
        left_s = (after(begun_us, limit_s) - time.time_ns() // 1000) / 1_000_000
        try:
            async with asyncio.timeout(max(0.0, left_s)) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            self.abandon(where, "the timeout of its branch is over")
            raise StepTimeoutError(
                f"a branch of the step {self._step} took longer than branch_timeout, {limit_s:g} s: raise "
                "it, or let the branch do less",
                step=self._step,
                timeout_s=f"{limit_s:g}",
            ) from None

    async def _loop(self, action: LoopAction, place: str, values: Values, first: str) -> StepResult | None:
        outputs: list[Any] = []
        default = first
        for number in range(1, action.max_rounds + 1):
            loop = {"round": number, "last": outputs[-1] if outputs else None, "outputs": outputs}
            inner = {**values, "loop": loop}
            if self._run.state.steps[self._step].rounds < number:
                began = event_pb2.LoopRound(step=self._step, round=number)
                self._run.emit(f"step:{self._step}", loop_round=began)
            asked = self.asked(action.action, inner, default)
            result = await self.act(action.action, f"{place}/round:{number}", inner, asked)
            if result is None:
                return None
            outputs.append(result.value)
            default = as_text(result.value)
            seen = {**values, "loop": {"round": number, "output": result.value, "outputs": outputs}}
            if truth(action.until, seen, self._step, "until"):
                return result
        raise MaxIterationsReachedError(
            f"the loop of the step {self._step} was not done after {action.max_rounds} rounds: raise "
            "max_rounds, or see why `until` stays false",
            max_iterations=action.max_rounds,
        )

    async def _fail_over(
        self, action: FailoverAction, place: str, values: Values, default: str
    ) -> StepResult | None:
        last = len(action.choices)
        for number, choice in enumerate(action.choices, 1):
            where = f"{place}/choice:{number}"
            try:
                return await self.act(choice, where, values, self.asked(choice, values, default))
            except (ClaimLostError, BudgetExceededError):
                raise
            except RetinueError as error:
                fits = not action.errors or reason_name(error.reason) in action.errors
                if number == last or not fits:
                    raise
        raise AssertionError("a failover has choices")

    def abandon(self, place: str, why: str) -> None:
        """End the runs at a place and below it that have not ended."""
        path, tree = self._run.place(place), self._run.work.tree
        for child in tree.children_of_step(self._run.run_id, place.partition("/")[0]):
            inside = child.path == path or child.path.startswith(f"{path}/")
            if inside and child.result is None:
                for inner in list(tree.at_work(child.run_id)):
                    finish_child(self._run.work, inner, cancelled(why))
                finish_child(self._run.work, child, cancelled(why))

    _DO: ClassVar[Mapping[type[Any], Callable[..., Awaitable[StepResult | None]]]] = {
        ToolAction: _call,
        RunAction: _run_action,
        TransformAction: _transform,
        AskAction: _ask,
        FailAction: _give_up,
        RouterAction: _choose,
        EachAction: _each,
        LoopAction: _loop,
        FailoverAction: _fail_over,
        MemoryWriteAction: _write,
        MemoryReadAction: _read,
    }


def _choice_of(action: RouterAction, question: str) -> str:
    routes = "\n".join(f"- {each.name}: {each.description or each.name}" for each in action.routes)
    return f"{question}\n\nChoose one of these, and answer with its name alone:\n{routes}"


def _chosen(action: RouterAction, result: StepResult, step: str) -> str:
    """The route that an agent's answer names. Raises RouteUnknownError."""
    said = result.structured
    if isinstance(said, dict) and len(said) == 1:
        said = next(iter(said.values()))
    name = (said if isinstance(said, str) else result.text).strip().strip("\"'`.").strip()
    if name not in {each.name for each in action.routes}:
        names = ", ".join(each.name for each in action.routes)
        raise RouteUnknownError(
            f"the agent {action.chooser.name if action.chooser else ''} chose {result.text[:200]!r}, and the "
            f"routes are {names}: see its prompt, or give it an output_schema",
            step=step,
            answer=result.text[:200],
        )
    return name
