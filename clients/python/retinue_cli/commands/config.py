"""`get`, `apply` and `validate`: what is configured, and changing it."""

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.call import Call, calling
from retinue_cli.failures import FAILED, USAGE, CommandError
from retinue_cli.output import Output, to_json
from retinue_cli.project import find_project

if TYPE_CHECKING:
    from retinue.registry.v1 import component_pb2

_KINDS = {"llm": 1, "mcp_server": 2, "agent": 3}
"""ComponentKind, without importing the stubs; a test holds them to the proto."""

_OUTCOMES = {1: ("created", "green"), 2: ("updated", "green"), 3: ("unchanged", "dim")}


@calling
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
) -> None:
    """Show a component, or list them."""
    kind_name, _, name = (what or "").partition("/")
    kind: Any = kind_number(kind_name) if kind_name else 0
    if version and not name:
        raise CommandError("--version needs one component: KIND/NAME", status=USAGE)
    output = call.output
    async with call.open_client() as client:
        if name:
            _show(output, await client.components.get(kind, name, version=version))
            return
        found = [component async for component in client.components.list(kind)]
    if output.as_json:
        output.object({"components": [to_json(component) for component in found]})
    elif not found:
        output.line(f"No {kind_name or 'component'} here: `retinue validate` checks the project's files")
    else:
        output.table(
            ["COMPONENT", "VERSION", "FROM", "DESCRIPTION"],
            [[ref(each), str(each.version), _origin(each), _description(each)] for each in found],
        )


@calling
async def apply(
    call: Call,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="Further files.", show_default=False)
    ] = None,
    *,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", metavar="FILE", help="A file of components, YAML or JSON; repeatable."),
    ] = None,
    request_id: Annotated[
        str | None, typer.Option(metavar="ID", help="The same id changes nothing again.")
    ] = None,
) -> None:
    """Store the components of files in the registry, all or none."""
    from google.protobuf.json_format import ParseDict

    from retinue.registry.v1 import component_pb2
    from retinue_cli.loader import load_components

    paths = [*(file or ()), *(more or ())]
    if not paths:
        raise CommandError("name the files: `retinue apply -f agents.yaml`", status=USAGE)
    loaded = await load_components(paths)
    components = [ParseDict(each, component_pb2.Component()) for each in loaded]
    if not components:
        raise CommandError(f"there are no components in {', '.join(map(str, paths))}")
    for component in components:
        if call.namespace and component.namespace == "default":
            component.namespace = call.namespace
    output = call.output
    async with call.open_client() as client:
        answer = await client.components.apply(components, request_id=request_id)
    if output.as_json:
        output.object(answer)
        return
    for applied in answer.applied:
        outcome, style = _OUTCOMES.get(applied.outcome, ("?", ""))
        output.parts(
            (ref(applied.component), "bold"),
            (f" {outcome}", style),
            (f" v{applied.component.version}", "dim"),
        )


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
    """Check a project's files, without any service.

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


def kind_number(name: str) -> int:
    """A kind by its name, also in the plural and with a hyphen."""
    plain = name.lower().replace("-", "_")
    number = _KINDS.get(plain) or _KINDS.get(plain.removesuffix("s"))
    if number is None:
        near = difflib.get_close_matches(plain, _KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(_KINDS)}"
        raise CommandError(f"{name!r} is no kind of component: {hint}", status=USAGE)
    return number


def ref(component: "component_pb2.Component") -> str:
    """`agent/assistant`."""
    kind = next((name for name, number in _KINDS.items() if number == component.kind), "?")
    return f"{kind}/{component.name}"


def _show(output: Output, component: "component_pb2.Component") -> None:
    if output.as_json:
        output.object(component)
        return
    import yaml

    output.raw(yaml.safe_dump(to_json(component), sort_keys=False, allow_unicode=True, width=100))


def _origin(component: "component_pb2.Component") -> str:
    source = component.source
    if source.WhichOneof("origin") == "file":
        return f"{source.file.path}:{source.file.line}"
    return "API"


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
