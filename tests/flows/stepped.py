"""Workflows made of steps, that tests run in workers."""

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, create_model

from flows import note
from retinue_workflow import CompositeStep, Step, StepContext, Summary, Workflow


class Values(BaseModel):
    topic: str
    found: str
    drafts: list[str] = []
    approved: bool = False


async def find(ctx: StepContext) -> str:
    note("find", ctx.get("topic"))
    ctx.set("found", await ctx.agent("finder", ctx.get("topic")))
    return str(ctx.get("found"))


async def write(ctx: StepContext) -> str:
    return str(await ctx.agent("writer", ctx.get("found")))


async def approve(ctx: StepContext) -> bool:
    ctx.set("approved", await ctx.ask("Go out?", answer=bool))
    return bool(ctx.get("approved"))


def count(ctx: StepContext) -> int:
    """Plain code."""
    return len(str(ctx.get("found")))


class Report(Workflow):
    context = Values
    requires = ("topic",)
    provides = ("found", "approved")
    tags = ("nightly",)
    steps = (
        Step("find", find, requires=("topic",), provides=("found",), tools=("tools.look",), tags=("a",)),
        CompositeStep(
            "drafts", parallel=True, steps=(Step("one", write, requires=("found",)), Step("two", write))
        ),
        Step("never", write, condition=lambda ctx: ctx.get("topic") == "nothing"),
        Step("length", count, metadata={"unit": "characters"}),
        Step("approve", approve, provides=("approved",)),
    )

    def before_step(self, step: Step, ctx: StepContext) -> None:
        note("before", step.name)

    async def after_step(self, step: Step, ctx: StepContext) -> None:
        note("after", [step.name, ctx.results[step.name].state])
        if step.name == "find":
            raise RuntimeError("a hook out of order")

    def after_workflow(self, ctx: StepContext, summary: Summary) -> None:
        note("summary", summary.model_dump(mode="json"))


async def fails(ctx: StepContext) -> Any:
    note("tries", 1)
    raise ValueError("out of luck")


async def instead(ctx: StepContext, error: Exception) -> str:
    return await ctx.agent("writer", str(error)[-11:])


def plain_instead(ctx: StepContext, error: Exception) -> str:
    return f"{type(error).__name__} of {ctx.get('topic')}"


async def never(ctx: StepContext) -> bool:
    return bool(await ctx.read_state("nothing", default=False))


class OwnRun(Step):
    """Plain code in a class of its own."""

    def run(self, ctx: StepContext) -> str:  # type: ignore[override]
        return f"own {ctx.get('topic')}"


async def hangs(ctx: StepContext) -> Any:
    ctx.set("topic", "left behind")
    await ctx.tool("tools", "hang")


Small = create_model("Small", topic=(str, "x"), number=(int, 0))


class Handled(Workflow):
    context = Small
    steps = (
        Step("broken", fails, max_retries=2, backoff_s=0.01, on_error=instead),
        Step("late", hangs, max_retries=1, backoff_s=0.01, timeout_s=0.2),
        Step("plain", fails, max_retries=0, on_error=plain_instead),
        Step("left_out", fails, condition=never),
        OwnRun("own"),
        Step("last", lambda ctx: ctx.get("topic")),
    )
    metadata: ClassVar[dict[str, str]] = {"team": "bees"}

    def before_workflow(self, ctx: StepContext) -> None:
        raise RuntimeError("a hook out of order")

    def after_workflow(self, ctx: StepContext, summary: Summary) -> None:
        note("summary", summary.model_dump(mode="json"))

    async def on_error(self, step: Step, ctx: StepContext, error: Exception) -> str:
        return f"{step.name}: {type(error).__name__}"


class Unhandled(Workflow):
    context = Small
    steps = (Step("broken", fails, max_retries=0), Step("after", lambda _: 1))


class NoTool(Workflow):
    context = Small
    steps = (Step("one", fails), Step("two", fails, tools=("tools.nowhere",)))


class NoPlan(Workflow):
    context = Values
    steps = (Step("one", fails, requires=("found",)),)


class WrongValue(Workflow):
    context = Small
    steps = (Step("one", lambda ctx: ctx.set("number", "many"), max_retries=0),)


async def second(ctx: StepContext) -> str:
    if not (Path(os.environ["NOTES"]) / "mended").exists():
        raise ValueError("not mended")
    return f"{ctx.get('found')} {ctx.results['find'].output}"


class Mended(Workflow):
    """Its second step fails until there is a file."""

    context = Values
    requires = ("topic",)
    steps = (Step("find", find), Step("second", second, max_retries=0))


async def counts(ctx: StepContext) -> int:
    number = ctx.get("number")
    await ctx.tool("tools", "count_again", {"n": number, "ms": 20})
    ctx.set("number", number + 1)
    return int(number)


class Slow(Workflow):
    """A few steps with tool calls, to be killed in."""

    context = Small
    steps = (Step("step_0", counts), Step("step_1", counts), Step("step_2", counts), Step("step_3", counts))
