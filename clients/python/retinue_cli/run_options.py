"""RunOptions from the command line: what `run`, `chat` and `retry` set over the agent's own settings."""

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.durations import parse_duration
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.pairs import pairs_from

if TYPE_CHECKING:
    from retinue.engine.v1 import run_pb2

_PANEL = "The run, over the agent's own settings"
_LIMITS = "What it may use"


def span(help_: str, panel: str | None = None) -> Any:
    """An option that takes a span of time."""
    return typer.Option(parser=parse_duration, metavar="TIME", rich_help_panel=panel, help=help_)


def run_options(
    *,
    llm: Annotated[str, typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="The llm to use.")] = "",
    temperature: Annotated[
        float | None,
        typer.Option(min=0, max=2, metavar="N", rich_help_panel=_PANEL, help="Randomness, 0 to 2."),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="N", rich_help_panel=_PANEL, help="Nucleus sampling, 0 to 1."),
    ] = None,
    max_output_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=_PANEL, help="Most tokens that one answer may have."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Asks for repeatable answers.")
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT", rich_help_panel=_PANEL, help="A text that ends the answer; up to four times."
        ),
    ] = None,
    var: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel=_PANEL,
            help="A variable of the agent's system prompt; repeatable.",
        ),
    ] = None,
    output_schema: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", rich_help_panel=_PANEL, help="JSON Schema of the answer, in JSON or YAML."
        ),
    ] = None,
    max_repairs: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            rich_help_panel=_PANEL,
            help="How often an answer that does not fit the schema is asked for again.",
        ),
    ] = None,
    history: Annotated[
        bool | None,
        typer.Option(
            "--history/--no-history",
            rich_help_panel=_PANEL,
            help="Whether to begin with the session's messages.",
        ),
    ] = None,
    max_context_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=_PANEL,
            help="Most tokens that the model is sent; the oldest are left out.",
        ),
    ] = None,
    tool_concurrency: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=_PANEL, help="Most tool calls that run side by side."
        ),
    ] = None,
    input_timeout: Annotated[
        timedelta | None, span("How long what it asks waits for an answer.", _PANEL)
    ] = None,
    max_iterations: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", rich_help_panel=_LIMITS, help="Most model calls of the run."),
    ] = None,
    timeout: Annotated[
        timedelta | None, span("Most time for the run, from its acceptance: 30s, 5m, 1h.", _LIMITS)
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", rich_help_panel=_LIMITS, help="Most tokens of the run, in and out."),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(min=0, metavar="DOLLARS", rich_help_panel=_LIMITS, help="Most that the run may cost."),
    ] = None,
    max_tool_calls: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", rich_help_panel=_LIMITS, help="Most tool calls of the run."),
    ] = None,
    max_turns: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=_LIMITS, help="Most model calls, those of agents inside too."
        ),
    ] = None,
    max_duration: Annotated[
        timedelta | None, span("Most time for the run, waiting for people left out.", _LIMITS)
    ] = None,
    session_max_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", rich_help_panel=_LIMITS, help="Most tokens of all runs of the session."
        ),
    ] = None,
    session_max_cost: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="DOLLARS",
            rich_help_panel=_LIMITS,
            help="Most that all runs of the session may cost.",
        ),
    ] = None,
) -> "run_pb2.RunOptions":
    """RunOptions with what was given set and nothing else."""
    from retinue.engine.v1 import run_pb2

    options = run_pb2.RunOptions(
        llm=llm,
        max_iterations=max_iterations,
        tool_concurrency=tool_concurrency,
        include_history=history,
        variables=pairs_from("--var", var),
        output_schema_json=_schema_json(output_schema) if output_schema else "",
        max_repairs=max_repairs,
        max_context_tokens=max_context_tokens,
    )
    _set(
        options.generation,
        temperature=temperature,
        top_p=top_p,
        max_output_tokens=max_output_tokens,
        seed=seed,
    )
    if stop:
        options.generation.stop.extend(stop)
    _set(options, timeout=timeout, input_timeout=input_timeout)
    _set(
        options.budget,
        max_tokens=max_tokens,
        max_cost_nano_usd=_nano_usd(max_cost),
        max_tool_calls=max_tool_calls,
        max_turns=max_turns,
        max_duration=max_duration,
    )
    _set(options.session_budget, max_tokens=session_max_tokens, max_cost_nano_usd=_nano_usd(session_max_cost))
    return options


def _set(message: Any, **values: float | timedelta | None) -> None:
    """Set the fields that have a value; a message without any is not there."""
    for name, value in values.items():
        if isinstance(value, timedelta):
            getattr(message, name).FromTimedelta(value)
        elif value is not None:
            setattr(message, name, value)


def _nano_usd(dollars: float | None) -> int | None:
    return None if dollars is None else round(dollars * 1e9)


def _schema_json(path: Path) -> str:
    """The JSON Schema in a file of JSON or YAML, as JSON."""
    import yaml

    try:
        text = path.read_text("utf-8")
        schema = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(schema, dict):
            return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        where = " ".join(str(error).split())
        raise CommandError(f"--output-schema {path} cannot be read: {where}", status=USAGE) from None
    raise CommandError(f"--output-schema {path} is no JSON Schema: it has to be a mapping", status=USAGE)
