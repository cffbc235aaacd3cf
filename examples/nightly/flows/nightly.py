"""The nightly report: looks at the clock, writes two parts side by side, and makes one text of them."""

import logging
from datetime import datetime

from pydantic import BaseModel

from retinue_workflow import CompositeStep, Step, StepContext, Summary, Workflow

log = logging.getLogger("nightly")


class Values(BaseModel):
    """What the steps share."""

    topic: str
    time: datetime
    report: str


class Clock(BaseModel):
    """What the clock says."""

    datetime: datetime


async def look_at_the_clock(ctx: StepContext) -> datetime:
    clock = await ctx.tool("time", "get_current_time", {"timezone": "UTC"}, output=Clock)
    ctx.set("time", clock.datetime)
    return clock.datetime


async def write_news(ctx: StepContext) -> str:
    return str(await ctx.agent("reporter", f"What is the news of {ctx.get('topic')}?"))


async def write_numbers(ctx: StepContext) -> str:
    return str(await ctx.agent("reporter", f"What are the numbers of {ctx.get('topic')}?"))


async def do_without(ctx: StepContext, error: Exception) -> str:
    log.warning("no numbers of %s: %s", ctx.get("topic"), error)
    return ""


async def edit(ctx: StepContext) -> str:
    parts = [ctx.results[name].output for name in ("news", "numbers")]
    ctx.set("report", await ctx.agent("editor", " ".join(part for part in parts if part)))
    return str(ctx.get("report"))


class NightlyReport(Workflow):
    """Asks for a topic; gives the report and when it was written."""

    context = Values
    requires = ("topic",)
    provides = ("time", "report")
    tags = ("nightly",)
    steps = (
        Step("clock", look_at_the_clock, provides=("time",), tools=("time.get_current_time",)),
        CompositeStep(
            "parts",
            parallel=True,
            steps=(
                Step("news", write_news, requires=("topic",)),
                Step("numbers", write_numbers, max_retries=1, on_error=do_without),
            ),
        ),
        Step("edit", edit, provides=("report",), timeout_s=120),
    )

    def after_workflow(self, ctx: StepContext, summary: Summary) -> None:
        """Say how it went; what is logged stands in the run's events."""
        log.info("%d steps of %s are done", len(summary.steps), ctx.name)
