"""`memory`: the texts that the engine keeps, and workflows read and write."""

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.durations import parse_duration
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.output import Output, to_json
from retinue_cli.pairs import labels_text, pairs_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retinue.engine.v1 import memory_pb2

app = typer.Typer(no_args_is_help=True, help="Keep texts, and find those that workflows kept.")

MemoryId = Annotated[str, typer.Argument(metavar="MEMORY", help="The text's id.", show_default=False)]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", "-l", metavar="NAME=VALUE", help="A label; repeatable.", show_default=False),
]


@app.command()
@calling
async def write(
    call: Call,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to keep.", show_default=False)],
    *,
    labels: Labels = None,
    expire_after: Annotated[
        timedelta | None,
        typer.Option(parser=parse_duration, metavar="SPAN", help="Forget it after so long, `30d`."),
    ] = None,
    request_id: Annotated[
        str, typer.Option(metavar="ID", help="Keep it once, however often this is sent.")
    ] = "",
) -> None:
    """Keep a text, and print its id."""
    given = pairs_from("--label", labels)
    async with call.open_client() as client:
        memory = await client.memories.write(
            text, labels=given, expire_after=expire_after, request_id=request_id
        )
    call.output.object(memory) if call.output.as_json else call.output.line(memory.memory_id)


@app.command()
@calling
async def search(
    call: Call,
    query: Annotated[str, typer.Argument(metavar="WORDS", help="What to find.", show_default=False)],
    *,
    labels: Labels = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="Most texts.")] = 10,
) -> None:
    """Find texts by their words, those with more of them first."""
    given = pairs_from("--label", labels)
    async with call.open_client() as client:
        found = await client.memories.search(query, labels=given, limit=limit)
    _show(call.output, found)


@app.command("list")
@calling
async def list_memories(
    call: Call,
    *,
    labels: Labels = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Most texts.")] = 20,
) -> None:
    """List texts, the newest first."""
    given = pairs_from("--label", labels)
    found: list[memory_pb2.Memory] = []
    async with call.open_client() as client:
        async for memory in client.memories.list(labels=given, page_size=min(limit, 1000)):
            found.append(memory)
            if len(found) == limit:
                break
    _show(call.output, found)


@app.command()
@calling
async def get(call: Call, memory_id: MemoryId) -> None:
    """Print a text."""
    async with call.open_client() as client:
        memory = await client.memories.get(memory_id)
    call.output.object(memory) if call.output.as_json else call.output.line(memory.text)


@app.command()
@calling
async def delete(call: Call, memory_ids: Annotated[list[str], typer.Argument(metavar="MEMORY...")]) -> None:
    """Forget texts, for good."""
    if len(set(memory_ids)) < len(memory_ids):
        raise CommandError("a text is named twice", status=USAGE)
    async with call.open_client() as client:
        for memory_id in memory_ids:
            await client.memories.delete(memory_id)
            call.output.note(f"{memory_id} is forgotten")


def _show(output: Output, found: "Sequence[memory_pb2.Memory]") -> None:
    if output.as_json:
        output.object({"memories": [to_json(each) for each in found]})
        return
    rows = [[each.memory_id, labels_text(each.labels), " ".join(each.text.split())[:80]] for each in found]
    output.table(["MEMORY", "LABELS", "TEXT"], rows)
