"""`get`, `problems` and `validate`: what is configured, and what is wrong with it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling, taking
from retinue_cli.failures import FAILED, USAGE, CommandError
from retinue_cli.kinds import component_from, file_place, kind_number, origin, ref
from retinue_cli.output import Output, to_json
from retinue_cli.project import find_project
from retinue_cli.which_options import Which, which_options

if TYPE_CHECKING:
    from retinue.registry.v1 import component_pb2


@calling
@taking("which", which_options)
async def get(
    call: Call,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND[/NAME]]",
            help="`agent/assistant`, or `agent` for all; all kinds where it is left out.",
        ),
    ] = None,
    *,
    version: Annotated[int, typer.Option(min=0, metavar="N", help="This version; 0 is the current one.")] = 0,
    which: Which,
) -> None:
    """Show a component as a file has it, or list them."""
    kind, name = component_from(what) if what and "/" in what else (kind_number(what or ""), "")
    if version and not name:
        raise CommandError("--version needs one component: KIND/NAME", status=USAGE)
    if name and which != which_options():
        raise CommandError(f"{what} is one component: leave --name, --label and --source out", status=USAGE)
    output = call.output
    async with call.open_client() as client:
        if name:
            _show(output, await client.components.get(kind, name, version=version))
            return
        found = [component async for component in client.components.list(kind, **which._asdict())]
    if output.as_json:
        output.object({"components": [to_json(component) for component in found]})
    elif not found:
        such = "such component" if which != which_options() else what or "component"
        output.line(f"No {such} here: `retinue validate` checks the project's files")
    else:
        output.table(
            ["COMPONENT", "VERSION", "FROM", "DESCRIPTION"],
            [[ref(each), str(each.version), origin(each), _description(each)] for each in found],
        )


@calling
async def problems(call: Call) -> None:
    """List what is wrong with the files that the registry reads; exit status 1 where there is anything."""
    output = call.output
    async with call.open_client() as client:
        found = [problem async for problem in client.components.problems()]
    if output.as_json:
        output.object({"problems": [to_json(problem) for problem in found]})
    elif not found:
        output.line("No problems.")
    for problem in found:
        field = f"{problem.field}: " if problem.field else ""
        output.parts((f"{file_place(problem)}: ", "bold"), (f"{field}{problem.message}", ""))
    if found:
        raise typer.Exit(FAILED)


@calling
async def validate(
    call: Call,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATH]", help="A project's folder or a file; the project here where it is left out."
        ),
    ] = None,
) -> None:
    """Check a project's files, without any service; those of its workspace, the user and packages, too.

    Each problem comes with its file, line and the way out.
    """
    from retinue_cli.loader import run_loader

    where = path or find_project()
    if where is None:
        raise CommandError("there is no retinue.yaml here or above: name a folder or a file to check")
    if not where.exists():
        raise CommandError(f"there is no {where}", status=USAGE)
    output = call.output
    arguments = ["--check", str(where), *(["--json"] if output.as_json else [])]
    status, out, err = await run_loader(*arguments)
    if output.as_json:
        output.object({"valid": not status, "problems": _parsed(out, err)})
    else:
        output.raw(out)
        if err:
            output.note(err.rstrip("\n"))
    raise typer.Exit(FAILED if status else 0)


def _show(output: Output, component: "component_pb2.Component") -> None:
    if output.as_json:
        output.object(component)
        return
    from retinue_cli.file_form import file_form, to_yaml, write_file_form

    stored = f"{component.update_time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
    about = f"# {ref(component)}, version {component.version}, from {origin(component)}, stored {stored}\n"
    write_file_form(output, about + to_yaml(file_form([component])))


def _description(component: "component_pb2.Component") -> str:
    spec = component.WhichOneof("spec")
    text: str = getattr(component, spec).description if spec else ""
    return text


def _parsed(out: str, err: str) -> list[Any]:
    try:
        problems = json.loads(out)
    except ValueError:
        return [{"message": (err or out).strip()}]
    return problems if isinstance(problems, list) else [problems]
