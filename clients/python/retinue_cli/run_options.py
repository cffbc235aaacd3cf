"""The options of a run, the same for `run` and `chat`: all of RunOptions."""

from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.failures import USAGE, CommandError

if TYPE_CHECKING:
    from retinue.engine.v1 import run_pb2

_PANEL = "The run, over the agent's own settings"

Llm = Annotated[str | None, typer.Option(metavar="NAME", rich_help_panel=_PANEL, help="The llm to use.")]
SessionId = Annotated[
    str | None,
    typer.Option(
        "--session", "-s", metavar="ID", help="The session to go on with, or to begin under this id."
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0, max=2, rich_help_panel=_PANEL, help="Randomness, 0 to 2.")
]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, rich_help_panel=_PANEL, help="Nucleus sampling, 0 to 1.")
]
MaxOutputTokens = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_PANEL, help="Most tokens that one answer may have.")
]
Seed = Annotated[int | None, typer.Option(rich_help_panel=_PANEL, help="Asks for repeatable answers.")]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT", rich_help_panel=_PANEL, help="A text that ends the answer; up to four times."
    ),
]
MaxIterations = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_PANEL, help="Most model calls of the run.")
]
ToolConcurrency = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_PANEL, help="Most tool calls that run side by side.")
]
History = Annotated[
    bool | None,
    typer.Option(
        "--history/--no-history", rich_help_panel=_PANEL, help="Whether to begin with the session's messages."
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="SECONDS", rich_help_panel=_PANEL, help="Most time for the run."),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=_PANEL, help="Most tokens of the run, in and out.")
]
MaxCost = Annotated[
    float | None,
    typer.Option(min=0, metavar="DOLLARS", rich_help_panel=_PANEL, help="Most that the run may cost."),
]
MaxToolCalls = Annotated[
    int | None, typer.Option(min=0, rich_help_panel=_PANEL, help="Most tool calls of the run.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A word to find the run by; repeatable."),
]


def run_options(
    *,
    llm: str | None,
    temperature: float | None,
    top_p: float | None,
    max_output_tokens: int | None,
    seed: int | None,
    stop: list[str] | None,
    max_iterations: int | None,
    tool_concurrency: int | None,
    history: bool | None,
    timeout: float | None,
    max_tokens: int | None,
    max_cost: float | None,
    max_tool_calls: int | None,
) -> "run_pb2.RunOptions":
    """RunOptions with what was given set and nothing else."""
    from retinue.engine.v1 import run_pb2

    options = run_pb2.RunOptions(
        llm=llm or "",
        max_iterations=max_iterations,
        tool_concurrency=tool_concurrency,
        include_history=history,
    )
    generation = {
        "temperature": temperature,
        "top_p": top_p,
        "max_output_tokens": max_output_tokens,
        "seed": seed,
    }
    for name, value in generation.items():
        if value is not None:
            setattr(options.generation, name, value)
    options.generation.stop.extend(stop or ())
    if not options.generation.ListFields():
        options.ClearField("generation")
    if timeout is not None:
        options.timeout.FromNanoseconds(round(timeout * 1e9))
    budget = {
        "max_tokens": max_tokens,
        "max_cost_nano_usd": None if max_cost is None else round(max_cost * 1e9),
        "max_tool_calls": max_tool_calls,
    }
    for name, limit in budget.items():
        if limit is not None:
            setattr(options.budget, name, limit)
    return options


def labels_from(given: list[str] | None) -> dict[str, str]:
    """Labels from `KEY=VALUE` texts."""
    labels: dict[str, str] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise CommandError(f"--label {text!r} is not KEY=VALUE, like --label team=search", status=USAGE)
        labels[key] = value
    return labels
