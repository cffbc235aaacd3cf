"""`report` shows what a run used and what went wrong in it; `trace` tells its whole story to programs."""

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.output import Output
from retinue_cli.results import state_name, state_style, tokens
from retinue_cli.wording import count, dollars, seconds

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from retinue.common.v1 import usage_pb2
    from retinue.engine.v1 import report_pb2

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)]

_FINDINGS = {
    1: ("retry", "yellow"),
    2: ("failed part", "red"),
    3: ("degraded", "yellow"),
    4: ("recovery", "cyan"),
}


@calling
async def report(call: Call, run_id: RunId) -> None:
    """Show what a run used, by agent, model, tool and turn, and what went wrong in it; also while it runs."""
    output = call.output
    async with call.open_client() as client:
        made = await client.runs.report(run_id)
    if output.as_json:
        output.object(made)
    else:
        _show(output, made)


@calling
async def trace(
    call: Call,
    run_id: RunId,
    *,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until the run has ended, not only to where it is now."),
    ] = False,
) -> None:
    """Print the whole story of a run as JSON lines: the run, then each event, of runs inside it too."""
    lines = Output(as_json=True)
    async with call.open_client() as client:
        lines.object(await client.runs.get(run_id))
        events = client.runs.watch(run_id) if follow else client.runs.events(run_id)
        async with aclosing(events) as open_events:  # type: ignore[type-var]
            async for event in open_events:
                lines.object(event)


def _show(output: Output, made: "report_pb2.RunReport") -> None:
    totals = made.totals
    suspended = f", {_span(totals.suspended)} of it suspended" if _nanos(totals.suspended) else ""
    output.parts(
        (f"{made.run_id} · ", ""),
        (state_name(made.state), state_style(made.state)),
        (f" · {_span(totals.duration)}{suspended}", ""),
    )
    failed = f" ({totals.failed_tool_calls} failed)" if totals.failed_tool_calls else ""
    parts = [count(totals.turns, "turn"), f"{count(totals.tool_calls, 'tool call')}{failed}"]
    if totals.child_runs:
        parts.append(count(totals.child_runs, "run") + " inside")
    if totals.retries:
        parts.append(count(totals.retries, "failed model call"))
    output.line(" · ".join([*parts, f"tokens {tokens(totals.usage)}", _cost(totals.cost)]))
    averages = [
        f"{what} {_span(average)}"
        for what, average in (
            ("a model call", totals.average_llm_latency),
            ("a tool call", totals.average_tool_latency),
        )
        if _nanos(average)
    ]
    if averages:
        output.line(f"on average {', '.join(averages)}", style="dim")
    _show_sums(output, made)
    _show_findings(output, made)


def _show_sums(output: Output, made: "report_pb2.RunReport") -> None:
    _section(
        output,
        ["AGENT", "RUNS", "TURNS", "TOOL CALLS", "TOKENS", "COST"],
        [
            [each.agent, str(each.runs), str(each.turns), str(each.tool_calls), *_used(each)]
            for each in made.agents
        ],
    )
    _section(
        output,
        ["LLM", "MODEL", "CALLS", "FAILED", "LATENCY", "TOKENS", "COST"],
        [
            [
                each.llm,
                each.model,
                str(each.calls),
                str(each.failures),
                _span(each.average_latency),
                *_used(each),
            ]
            for each in made.models
        ],
    )
    _section(
        output,
        ["TOOL", "CALLS", "FAILED", "LATENCY"],
        [
            [
                f"{each.server}.{each.tool}" if each.server else each.tool,
                str(each.calls),
                str(each.failures),
                _span(each.average_latency),
            ]
            for each in made.tools
        ],
    )
    _section(
        output,
        ["STEP", "AGENT", "TOOL CALLS", "TOOK", "TOKENS", "COST"],
        [
            [each.path, each.agent, str(each.tool_calls), _span(each.duration), *_used(each)]
            for each in made.steps
        ],
    )


def _show_findings(output: Output, made: "report_pb2.RunReport") -> None:
    if not made.findings:
        return
    output.line()
    output.line("FINDINGS", style="bold")
    for each in made.findings:
        kind, style = _FINDINGS.get(each.kind, ("", ""))
        place = f" {each.path}" if each.path else ""
        where = f"{place} #{each.sequence}: " if each.sequence else " "
        output.parts((kind, style), (where, "dim"), (each.message, ""), indent=2)


def _section(output: Output, headers: list[str], rows: list[list[str]]) -> None:
    if rows:
        output.line()
        output.table(headers, rows, flexible=0)


def _used(
    part: "report_pb2.AgentReport | report_pb2.ModelReport | report_pb2.StepReport",
) -> tuple[str, str]:
    return f"{part.usage.input_tokens + part.usage.output_tokens:,}", _cost(part.cost).removeprefix("cost ")


def _cost(cost: "usage_pb2.Cost") -> str:
    return dollars(cost.nano_usd, unknown=cost.unknown)


def _nanos(span: "Duration") -> int:
    return span.ToNanoseconds()


def _span(span: "Duration") -> str:
    return seconds(_nanos(span) / 1e9)
