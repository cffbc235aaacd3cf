"""`show`: a run as it is stored, where it stands, and what it runs with."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling
from retinue_cli.output import Output
from retinue_cli.pairs import labels_text
from retinue_cli.results import PAUSED, bill, state_name, state_style, stop_words
from retinue_cli.wording import count, dollars, one_line, seconds

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from retinue.engine.v1 import run_pb2
    from retinue.registry.v1 import agent_pb2

_SHORT = 300
_BUDGET = {
    "max_tokens": "tokens",
    "max_tool_calls": "tool calls",
    "max_turns": "turns",
}


@calling
async def show(
    call: Call,
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)],
    *,
    full: Annotated[
        bool, typer.Option("--full", help="Show message, answer, prompt and schema in full.")
    ] = False,
) -> None:
    """Show a run: where it stands, what it was asked and answered, and the settings that it runs with."""
    async with call.open_client() as client:
        run = await client.runs.get(run_id)
    output = call.output
    if output.as_json:
        output.object(run)
        return
    paused = " (asked to pause)" if run.pause_requested and run.state != PAUSED else ""
    output.parts(
        (f"{run.run_id} · {run.target.name} · ", ""),
        (f"{state_name(run.state)}{paused}", state_style(run.state)),
    )
    shorten = _whole if full else _shortened
    _table(output, _facts(run, shorten))
    if run.HasField("settings"):
        output.line()
        output.line("RUNS WITH", style="bold")
        _table(output, _settings(run.settings, shorten))


def _facts(run: "run_pb2.Run", shorten: Any) -> Iterator[tuple[str, str]]:
    target = run.target
    yield "agent", f"{target.name}{f' v{target.version}' if target.version else ''}"
    yield "asked", shorten(run.message)
    yield "session", run.session_id
    if run.parent_run_id:
        yield "inside", f"{run.parent_run_id} at {run.path}"
    if run.root_run_id not in {"", run.run_id, run.parent_run_id}:
        yield "tree of", run.root_run_id
    if run.origin.run_id:
        yield "goes on from", f"{run.origin.run_id} #{run.origin.sequence}"
    yield "labels", labels_text(run.labels)
    yield "priority", str(run.priority or "")
    yield "accepted", _time(run.create_time)
    if not run.HasField("result"):
        return
    result = run.result
    yield "ended", _time(run.end_time)
    yield "stop reason", stop_words(result.stop_reason)
    yield "error", result.error.message
    yield "cancelled", result.cancel_reason
    yield "answer", shorten(result.structured_json or result.output)
    yield "used", bill(result)


def _settings(settings: "run_pb2.RunSettings", shorten: Any) -> Iterator[tuple[str, str]]:
    for number, llm in enumerate(settings.llms):
        yield "llm" if not number else "else", _llm(llm)
    yield "limits", _limits(settings)
    yield "budget", _budget(settings.budget)
    yield "session budget", _budget(settings.session_budget)
    yield "history", "yes" if settings.include_history else "no"
    if settings.HasField("max_context_tokens"):
        yield "context", f"at most {count(settings.max_context_tokens, 'token')}"
    if _nanos(settings.input_timeout):
        yield "inputs wait", _span(settings.input_timeout)
    if settings.output_schema_json:
        yield "answer fits", shorten(settings.output_schema_json)
        yield "repairs", f"at most {settings.max_repairs}"
    yield "prompt", shorten(settings.system_prompt)


def _llm(llm: "run_pb2.LlmSettings") -> str:
    generation = llm.generation
    written = [
        f"{field.name} {', '.join(value) if field.name == 'stop' else f'{value:g}'}"
        for field, value in generation.ListFields()
    ]
    bounds = [f"timeout {_span(llm.timeout)}" if _nanos(llm.timeout) else "", f"{llm.max_retries} retries"]
    return " · ".join(filter(None, [llm.name, llm.model, llm.transport, *written, *bounds]))


def _limits(settings: "run_pb2.RunSettings") -> str:
    parts = [
        f"{settings.max_iterations} model calls",
        f"{settings.tool_concurrency} tool calls side by side",
        f"stalls after {settings.stall_after} same calls" if settings.stall_after else "",
        f"timeout {_span(settings.timeout)}" if _nanos(settings.timeout) else "",
    ]
    return " · ".join(filter(None, parts))


def _budget(budget: "agent_pb2.Budget") -> str:
    parts = [f"{getattr(budget, name):,} {noun}" for name, noun in _BUDGET.items() if budget.HasField(name)]  # type: ignore[arg-type]
    if budget.HasField("max_cost_nano_usd"):
        parts.append(dollars(budget.max_cost_nano_usd, unknown=False))
    if budget.HasField("max_duration"):
        parts.append(_span(budget.max_duration))
    return " · ".join(parts)


def _table(output: Output, rows: "Iterator[tuple[str, str]]") -> None:
    """Names and values below one another; what has no value is left out."""
    given = [(name, value) for name, value in rows if value]
    width = max(len(name) for name, _ in given)
    for name, value in given:
        first, *more = value.splitlines()
        output.parts((f"{name:<{width}}  ", "dim"), (first, ""), indent=2)
        for line in more:
            output.parts((" " * (width + 2), ""), (line, ""), indent=2)


def _shortened(text: str) -> str:
    return one_line(text, _SHORT)


def _whole(text: str) -> str:
    return text


def _time(timestamp: Any) -> str:
    then: datetime = timestamp.ToDatetime(tzinfo=UTC)
    return f"{then:%Y-%m-%d %H:%M:%S} UTC"


def _nanos(span: "Duration") -> int:
    return span.ToNanoseconds()


def _span(span: "Duration") -> str:
    return seconds(_nanos(span) / 1e9)
