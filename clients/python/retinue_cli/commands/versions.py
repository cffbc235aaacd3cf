"""`history`, `rollback` and `delete`: the versions of one component, and going back to one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from retinue_cli.call import Call, calling
from retinue_cli.commands.history import Limit
from retinue_cli.component_changes import (
    DELETED,
    changes_from,
    show_broken,
    show_changes,
    show_outcome,
)
from retinue_cli.kinds import Component, component_from, origin, ref
from retinue_cli.output import to_json
from retinue_cli.wording import ago, one_line

if TYPE_CHECKING:
    from retinue.registry.v1 import service_pb2

_LARGEST_PAGE = 1000
_LONGEST = 80


@calling
async def history(call: Call, component: Component, *, limit: Limit = 20) -> None:
    """List the versions of a component, also of one that was deleted."""
    kind, name = component_from(component)
    output = call.output
    found: list[service_pb2.ComponentVersion] = []
    async with call.open_client() as client:
        # One more, to say what the last one changed.
        async for version in client.components.versions(kind, name, page_size=min(limit + 1, _LARGEST_PAGE)):
            found.append(version)
            if len(found) > limit:
                break
    if output.as_json:
        output.object({"versions": [to_json(version) for version in found[:limit]]})
        return
    now = datetime.now(UTC)
    rows = [
        [
            str(each.component.version),
            ago(each.component.update_time.ToDatetime(UTC), now),
            origin(each.component),
            one_line(_what_changed(found, number), _LONGEST),
        ]
        for number, each in enumerate(found[:limit])
    ]
    output.table(["VERSION", "STORED", "FROM", "CHANGED"], rows)


def _what_changed(versions: "Sequence[service_pb2.ComponentVersion]", number: int) -> str:
    """`deleted`, `created`, or the fields that are other than in the version before."""
    from retinue_cli.file_form import component_form

    version = versions[number]
    before = versions[number + 1] if number + 1 < len(versions) else None
    if version.deleted:
        return "deleted"
    if before is None:
        return "created" if version.component.version == 1 else ""
    if before.deleted:
        return "created again"
    now, then = component_form(version.component), component_form(before.component)
    return ", ".join(name for name in {**then, **now} if now.get(name) != then.get(name))


@calling
async def rollback(
    call: Call,
    component: Component,
    version: Annotated[
        int, typer.Argument(min=1, metavar="VERSION", help="The version to go back to.", show_default=False)
    ],
    *,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Also where a file owns it: the file's is not in effect then.")
    ] = False,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same id changes nothing again.")
    ] = None,
) -> None:
    """Store what an earlier version held as the newest one, by API."""
    kind, name = component_from(component)
    output = call.output
    async with call.open_client() as client:
        answer = await client.components.rollback(
            kind, name, version, take_over=take_over, request_id=request_id
        )
    if output.as_json:
        output.object(answer)
        return
    show_outcome(output, answer.applied.component, answer.applied.outcome)
    show_changes(output, changes_from(answer.applied.changes))


@calling
async def delete(
    call: Call,
    component: Component,
    *,
    force: Annotated[bool, typer.Option("--force", help="Also where others need it.")] = False,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same id changes nothing again.")
    ] = None,
) -> None:
    """Delete a component that came by API; `rollback` brings it back."""
    kind, name = component_from(component)
    output = call.output
    async with call.open_client() as client:
        answer = await client.components.delete(kind, name, force=force, request_id=request_id)
    if output.as_json:
        output.object(answer)
        return
    show_outcome(output, answer.component, DELETED)
    if answer.HasField("replacement"):
        given = answer.replacement
        output.line(f"{origin(given)} has it: {ref(given)} v{given.version} is in effect")
    show_broken(output, answer.broken)
