"""`inputs` lists what runs ask; `approve`, `deny` and `answer` answer it."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.inputs import answered, arguments_of, asked, input_state, value_of, ways_to_answer
from retinue_cli.output import to_json
from retinue_cli.wording import ago

if TYPE_CHECKING:
    from retinue.client import Client
    from retinue.engine.v1 import input_pb2

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run that asks.", show_default=False)]
InputId = Annotated[
    str | None,
    typer.Argument(
        metavar="[INPUT]", help="What it asks; may be left out where it is one thing.", show_default=False
    ),
]


@calling
async def inputs(
    call: Call,
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="Only what this run asks.", show_default=False),
    ] = None,
    *,
    closed: Annotated[bool, typer.Option("--all", help="Also what has been answered or given up.")] = False,
) -> None:
    """List what runs wait for: tool calls to approve, questions to answer; the newest first."""
    output = call.output
    async with call.open_client() as client:
        found = [each async for each in client.inputs.list(run_id or "", include_closed=closed)]
    if output.as_json:
        output.object({"inputs": [to_json(each) for each in found]})
    elif not found:
        output.line("No run asks anything now")
    else:
        now = datetime.now(UTC)
        rows = [
            [
                each.root_run_id,
                each.input_id,
                input_state(each.state),
                ago(each.create_time.ToDatetime(tzinfo=UTC), now),
                f"{asked(each)}{f' ({answered(each.answer)})' if each.HasField('answer') else ''}",
            ]
            for each in found
        ]
        output.table(["RUN", "INPUT", "STATE", "ASKED", "WHAT"], rows)


@calling
async def approve(
    call: Call,
    run_id: RunId,
    input_id: InputId = None,
    *,
    arguments: Annotated[
        str, typer.Option("--args", metavar="JSON", help="Call it with these arguments in place of its own.")
    ] = "",
) -> None:
    """Let a run call a tool that it asks about."""
    arguments_json = arguments_of(arguments) if arguments else ""
    async with call.open_client() as client:
        request = await _find(call, client, run_id, input_id)
        if not request.HasField("approval"):
            raise _other_way(call, request, "a question")
        _show(call, await client.inputs.approve(request, arguments_json))


@calling
async def deny(
    call: Call,
    run_id: RunId,
    input_id: InputId = None,
    *,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why a tool may not be called; the model is told.")
    ] = "",
) -> None:
    """Do not let a run call a tool that it asks about; or leave a question without an answer."""
    async with call.open_client() as client:
        request = await _find(call, client, run_id, input_id)
        if request.HasField("approval"):
            _show(call, await client.inputs.deny(request, reason))
        elif reason:
            raise CommandError(
                f"{request.input_id} is a question, which nobody is told the reason of: leave out --reason",
                status=USAGE,
            )
        else:
            _show(call, await client.inputs.refuse(request))


@calling
async def answer(
    call: Call,
    run_id: RunId,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[INPUT] VALUE",
            help="What it asks, which may be left out where it is one thing; and the answer: JSON, or text "
            "where text will do.",
            show_default=False,
        ),
    ],
) -> None:
    """Answer a question that a run asks."""
    *named, value = given
    if len(named) > 1:
        raise CommandError("give one answer, in quotes where it has spaces", status=USAGE)
    async with call.open_client() as client:
        request = await _find(call, client, run_id, named[0] if named else None)
        if not request.HasField("question"):
            raise _other_way(call, request, "a tool call")
        _show(call, await client.inputs.provide(request, value_of(value, request.question.schema_json)))


async def _find(call: Call, client: "Client", run_id: str, input_id: str | None) -> "input_pb2.InputRequest":
    """The request that is meant; one that is named may be closed, which the engine then says."""
    found = [each async for each in client.inputs.list(run_id, include_closed=input_id is not None)]
    meant = [each for each in found if input_id in {None, each.input_id}]
    if len(meant) == 1:
        return meant[0]
    if not found:
        raise CommandError(
            f"{run_id} asks nothing{' now' if input_id is None else ''}: `retinue inputs{call.repeated()}` "
            "lists what all runs ask"
        )
    what = "asks several things, name one" if input_id is None else f"does not ask {input_id}, but"
    lines = [f"  {each.input_id}  {input_state(each.state)}  {asked(each)}" for each in found]
    raise CommandError("\n".join([f"{run_id} {what}:", *lines]))


def _other_way(call: Call, request: "input_pb2.InputRequest", kind: str) -> CommandError:
    ways = " or ".join(f"`{way}`" for way in ways_to_answer(call, request))
    return CommandError(f"{request.input_id} is {kind}: {ways}", status=USAGE)


def _show(call: Call, request: "input_pb2.InputRequest") -> None:
    output = call.output
    if output.as_json:
        output.object(request)
    else:
        output.line(f"{request.input_id} {answered(request.answer)}")
