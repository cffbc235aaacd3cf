"""One run of a workflow that is made of steps. What is done stands in the journal, and is not done again."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration
from pydantic import TypeAdapter

from retinue.engine.v1 import call_pb2
from retinue.engine.v1.call_pb2 import CodeStepReport, WorkflowCall
from retinue.engine.v1.run_pb2 import RunError
from retinue.errors import (
    McpToolNotFoundError,
    RetinueError,
    StepTimeoutError,
    WorkflowCodeFailedError,
    error_from_facts,
)
from retinue_workflow.context import Context
from retinue_workflow.step import Step, given_by, now
from retinue_workflow.step_context import StepContext, Values
from retinue_workflow.summary import StepResult, Summary

if TYPE_CHECKING:
    from retinue_workflow.workflow import Workflow

log = logging.getLogger("retinue_workflow")

_OUTPUT: TypeAdapter[Any] = TypeAdapter(Any)


class PlanError(ValueError):
    """A workflow whose steps do not fit together; its text says where."""


def every_step(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps with those inside them, the inner ones first."""
    for step in steps:
        yield from every_step(step.inner())
        yield step


def check_plan(steps: Sequence[Step], values: Values) -> None:
    """Raise PlanError where a name is given twice, or a step requires what nothing before it provides."""
    names = [step.name for step in every_step(steps)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"steps have the same name: {', '.join(twice)}")
    provided: set[str] = set()
    for step in every_step(steps):
        lacking = [name for name in step.requires if name not in provided and name not in values]
        if lacking:
            raise PlanError(
                f"the step {step.name} requires {', '.join(lacking)}, which neither the input nor a step "
                "before it provides"
            )
        provided.update(step.provides)


class Execution:
    """Runs the steps of a workflow."""

    def __init__(self, workflow: "Workflow", ctx: Context, values: Values) -> None:
        self._workflow = workflow
        self._ctx = ctx
        self._values = values
        self._results: dict[str, StepResult] = {}
        self._hook_errors = 0
        self._root = self._context("workflow")

    def _context(self, place: str) -> StepContext:
        return StepContext(self._ctx, place, self._values, self._results, self.step)

    @property
    def summary(self) -> Summary:
        """How it went so far."""
        return Summary(
            workflow=self._ctx.name,
            steps=list(self._results.values()),
            tags=self._workflow.tags,
            metadata=self._workflow.metadata,
            hook_errors=self._hook_errors,
        )

    async def run(self) -> StepContext:
        """Do all steps; the context with what they have set. Raises the error of a step that failed."""
        workflow, root = self._workflow, self._root
        check_plan(workflow.steps, self._values)
        await self._check_tools()
        await self._hook("before_workflow", workflow.before_workflow, root)
        try:
            for step in workflow.steps:
                await self.step(step)
        finally:
            await self._hook("after_workflow", workflow.after_workflow, root, self.summary)
        # The same each time the code runs: what hooks did in one process is not.
        await root.emit("summary", self.summary.model_dump(mode="json", exclude={"hook_errors"}))
        return root

    async def _check_tools(self) -> None:
        wanted = {tool for step in every_step(self._workflow.steps) for tool in step.tools}
        if not wanted:
            return
        there = await self._root.list_tools()
        lacking = sorted(wanted - set(there))
        if lacking:
            raise McpToolNotFoundError(
                f"the workflow {self._ctx.name} needs the tools {', '.join(lacking)}, and has "
                f"{', '.join(there) or 'none'}: name their servers in its `mcp_servers`",
                tool=lacking[0],
            )

    async def step(self, step: Step) -> Any:
        """Do a step, unless it is done; its output. Raises the error of one that fails the workflow."""
        ctx = self._context(step.name)
        if step.condition is not None and not await now(step.condition(ctx)):
            standing = await self._report(step, call_pb2.STEP_PHASE_SKIPPED, reason="its condition is false")
        else:
            standing = await self._report(step, call_pb2.STEP_PHASE_STARTED, input=", ".join(step.requires))
            if standing["state"] == "open":
                await self._hook("before_step", self._workflow.before_step, step, ctx)
                standing = await self._try_until_done(step, standing)
                standing = await self._handle(step, standing)
                self._note(step, standing)
                await self._hook("after_step", self._workflow.after_step, step, ctx)
            else:
                await self._recall(step.inner())
                standing = await self._handle(step, standing)
        self._note(step, standing)
        if standing["state"] == "failed":
            error = standing["error"]
            raise error_from_facts(error["reason"], error["message"], error["facts"])
        return standing["output"]

    async def _recall(self, steps: Sequence[Step]) -> None:
        """Take in what steps inside one that is done have given, in the order in which they did."""
        asked = [
            (step, await self._report(step, call_pb2.STEP_PHASE_UNSPECIFIED)) for step in every_step(steps)
        ]
        for step, standing in sorted(asked, key=lambda each: float(each[1]["ended"])):
            if standing["state"] != "open":
                self._note(step, standing)

    async def _try_until_done(self, step: Step, standing: dict[str, Any]) -> dict[str, Any]:
        while standing["state"] == "open":
            number = standing["try"]
            if number > 1:
                waiting = self._context(f"{step.name}/try:{number - 1}")
                await waiting.sleep(delay_s(step, number - 1), key="backoff")
                standing = await self._report(step, call_pb2.STEP_PHASE_STARTED, number)
            ctx = self._context(f"{step.name}/try:{number}")
            try:
                output = await self._try(step, ctx)
            except Exception as error:  # noqa: BLE001 - steps raise what they raise
                standing = await self._failed(step, number, error)
            else:
                standing = await self._completed(step, number, ctx, output)
        return standing

    async def _try(self, step: Step, ctx: StepContext) -> str:
        lacking = [name for name in step.requires if not ctx.has(name)]
        if lacking:
            raise LookupError(f"it requires {', '.join(lacking)}, and nothing has set that")
        try:
            async with asyncio.timeout(step.timeout_s) as limit:
                output = await given_by(step.run, ctx)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StepTimeoutError(
                f"the step {step.name} took longer than its timeout of {step.timeout_s:g} s",
                step=step.name,
                timeout_s=f"{step.timeout_s:g}",
            ) from None
        lacking = [name for name in step.provides if not ctx.has(name)]
        if lacking:
            raise LookupError(f"it provides {', '.join(lacking)}, and has not set that")
        return json.dumps(_OUTPUT.dump_python(output, mode="json"), ensure_ascii=False)

    async def _completed(
        self, step: Step, number: int, ctx: StepContext, output_json: str, *, handled: bool = False
    ) -> dict[str, Any]:
        values = {name: self._values.as_json(name, value) for name, value in ctx.changes.items()}
        phase = call_pb2.STEP_PHASE_COMPLETED
        return await self._report(
            step, phase, number, output_json=output_json, values_json=values, handled=handled
        )

    async def _failed(self, step: Step, number: int, error: Exception) -> dict[str, Any]:
        log.warning("try %s of the step %s failed", number, step.name, exc_info=error)
        if number <= step.max_retries:
            delay = Duration()
            delay.FromMilliseconds(int(delay_s(step, number) * 1000))
            retrying = call_pb2.STEP_PHASE_RETRYING
            return await self._report(step, retrying, number, error=_run_error(step, error), delay=delay)
        handled = step.on_error is not None or self._workflow.handles_errors
        failed = call_pb2.STEP_PHASE_FAILED
        return await self._report(step, failed, number, error=_run_error(step, error), handled=handled)

    async def _handle(self, step: Step, standing: dict[str, Any]) -> dict[str, Any]:
        """Do what is to be done in place of a step that failed; where the step stands then."""
        if standing["state"] != "failed" or not standing["handled"]:
            return standing
        told = standing["error"]
        error = error_from_facts(told["reason"], told["message"], told["facts"])
        ctx = self._context(f"{step.name}/handler")
        if step.on_error is not None:
            output = await given_by(step.on_error, ctx, error)
        else:
            output = await given_by(self._workflow.on_error, step, ctx, error)
        output_json = json.dumps(_OUTPUT.dump_python(output, mode="json"), ensure_ascii=False)
        return await self._completed(step, standing["try"], ctx, output_json, handled=True)

    async def _report(
        self, step: Step, phase: call_pb2.StepPhase.ValueType, number: int = 1, **what: Any
    ) -> dict[str, Any]:
        """Say where a step stands; where it stands by the journal."""
        report = CodeStepReport(step=step.name, phase=phase, attempt=number, **what)
        calls = self._ctx._calls  # noqa: SLF001 - the same run
        standing: dict[str, Any] = await calls.call("", WorkflowCall(step=report))
        return standing

    def _note(self, step: Step, standing: dict[str, Any]) -> None:
        for name, value in standing["values"].items():
            self._values.set(name, value)
        error = standing["error"]
        self._results[step.name] = StepResult(
            name=step.name,
            state=standing["state"],
            tries=standing["try"],
            begun=standing["begun"],
            ended=standing["ended"],
            output=standing["output"],
            error=error["message"] if error else "",
            tags=step.tags,
            metadata=step.metadata,
        )

    async def _hook(self, name: str, hook: Callable[..., Any], *given: Any) -> None:
        """Call a hook. What it raises is logged and counted, and breaks nothing."""
        try:
            await now(hook(*given))
        except Exception:
            self._hook_errors += 1
            log.exception("the hook %s failed", name)


def delay_s(step: Step, number: int) -> float:
    """From the failure of a try, counted from 1, to the next one."""
    return float(step.backoff_s * 2 ** (number - 1))


def _run_error(step: Step, error: Exception) -> RunError:
    if isinstance(error, BaseExceptionGroup):
        # Of the errors of steps side by side the first is that of the one around them.
        first = error.exceptions[0]
        return _run_error(
            step, first if isinstance(first, Exception) else WorkflowCodeFailedError(str(first))
        )
    if not isinstance(error, RetinueError):
        said = f"{type(error).__name__}: {error}"
        error = WorkflowCodeFailedError(f"the step {step.name} failed: {said}", type=type(error).__name__)
    return RunError(reason=error.reason, message=str(error)[:4096], metadata=error.facts)
