"""`apply` and `diff`: what files hold goes into the registry by API, and what that would change."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.component_changes import (
    DELETED,
    UNCHANGED,
    changes_from,
    show_broken,
    show_changes,
    show_outcome,
    show_plan,
)
from retinue_cli.failures import FAILED, USAGE, CommandError, report
from retinue_cli.kinds import component_from, ref
from retinue_cli.output import to_json
from retinue_cli.wanted import Wanted, apply_wanted, read_wanted, wanted_options

_DIFFERENT, _BROKEN = 1, 2
"""How `diff` ends, as other commands of that name do."""


@calling
@taking("wanted", wanted_options)
def apply(
    call: Call,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[PATH]...", help="Further files.", show_default=False)
    ] = None,
    *,
    wanted: Wanted,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing: show what would be done.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --prune deletes.")] = False,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same id changes nothing again.")
    ] = None,
) -> None:
    """Store the components of files in the registry, all or none."""
    wanted = wanted._replace(paths=[*wanted.paths, *(more or ())])
    call, components = asyncio.run(read_wanted(call, wanted))
    output = call.output
    if dry_run or (wanted.prune and not yes):
        plan = asyncio.run(apply_wanted(call, components, wanted, dry_run=True))
        if dry_run:
            output.object(plan) if output.as_json else show_plan(output, plan.applied)
            show_broken(output, plan.broken)
            return
        _confirm(call, [ref(each.component) for each in plan.applied if each.outcome == DELETED])
    answer = asyncio.run(apply_wanted(call, components, wanted, request_id=request_id))
    if output.as_json:
        output.object(answer)
        return
    for applied in answer.applied:
        show_outcome(output, applied.component, applied.outcome)
    show_broken(output, answer.broken)


@calling
@taking("wanted", wanted_options)
def diff(
    call: Call,
    component: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND/NAME]", help="In place of files: compare its versions.", show_default=False
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Argument(min=1, metavar="[VERSION]", help="The one to begin with.")
    ] = None,
    to_version: Annotated[
        int | None, typer.Argument(min=1, metavar="[VERSION]", help="The other one, else the current one.")
    ] = None,
    *,
    wanted: Wanted,
) -> None:
    """Show what `apply` would change, or how versions of a component differ.

    Exit status 0 where nothing differs, 1 where something does, 2 where it could not be found out.
    """
    try:
        differs = asyncio.run(
            _diff_versions(call, component, version, to_version or 0, wanted)
            if component
            else _diff_files(call, wanted)
        )
    except Exception as error:  # noqa: BLE001 - said as any other, with an exit status of its own
        report(error, as_json=call.as_json)
        raise typer.Exit(_BROKEN) from None
    if differs:
        raise typer.Exit(_DIFFERENT)


async def _diff_files(call: Call, wanted: Wanted) -> bool:
    call, components = await read_wanted(call, wanted)
    plan = await apply_wanted(call, components, wanted, dry_run=True)
    output = call.output
    if output.as_json:
        output.object(plan)
    else:
        show_plan(output, plan.applied)
        show_broken(output, plan.broken)
    return any(each.outcome != UNCHANGED for each in plan.applied)


async def _diff_versions(
    call: Call, component: str, version: int | None, to_version: int, wanted: Wanted
) -> bool:
    kind, name = component_from(component)
    if version is None or wanted != wanted_options():
        raise CommandError(
            "compare versions with `diff KIND/NAME VERSION [VERSION]`, files with `diff -f FILE`",
            status=USAGE,
        )
    output = call.output
    async with call.open_client() as client:
        changes = await client.components.diff(kind, name, version, to_version)
    if output.as_json:
        output.object({"changes": [to_json(each) for each in changes]})
    elif changes:
        show_changes(output, changes_from(changes))
    else:
        output.line("They are the same.", style="dim")
    return bool(changes)


def _confirm(call: Call, deleted: Sequence[str]) -> None:
    if not deleted:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise CommandError(
            f"{', '.join(deleted)} would be deleted, and there is nobody to ask here: --yes does it",
            status=USAGE,
        )
    if not typer.confirm(f"Delete {', '.join(deleted)}?"):
        call.output.note("nothing is changed")
        raise typer.Exit(FAILED)
