"""What is to be in the registry: the components of files, and the options of `apply` and `diff` for them."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from retinue_cli.call import Call
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.kinds import file_place, kind_number, kind_word
from retinue_cli.pairs import pairs_from
from retinue_cli.wording import count

if TYPE_CHECKING:
    from retinue.errors import RetinueError
    from retinue.registry.v1 import component_pb2, service_pb2
    from retinue_cli.loader import WrongFilesError

_IN_REQUEST = re.compile(r"components\[(\d+)\](?:\.(\w+))?")


class Wanted(NamedTuple):
    """What is to be in the registry."""

    paths: Sequence[str]
    prune: bool
    labels: Mapping[str, str]
    force: bool


def wanted_options(
    *,
    file: Annotated[
        list[str] | None,
        typer.Option(
            "--file",
            "-f",
            metavar="PATH",
            help="A file of components, YAML or JSON; a folder; - for stdin. Repeatable.",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Also delete what came by API and is not in the files."),
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", "-l", metavar="NAME=VALUE", help="With --prune: only what has this label; repeatable."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="With --prune: delete also what others need.")
    ] = False,
) -> Wanted:
    """What the options say."""
    labels = pairs_from("a label", label)
    if (labels or force) and not prune:
        raise CommandError(f"{'--force' if force else '--label'} goes with --prune", status=USAGE)
    return Wanted(file or [], prune, labels, force)


async def read_wanted(call: Call, wanted: Wanted) -> "tuple[Call, list[component_pb2.Component]]":
    """The components of the files; and the call, in the namespace that is pruned."""
    from google.protobuf.json_format import ParseDict

    from retinue.registry.v1 import component_pb2
    from retinue_cli.loader import WrongFilesError, load_components

    if not wanted.paths:
        raise CommandError("name the files: `-f agents.yaml`", status=USAGE)
    try:
        loaded = await load_components(wanted.paths)
    except WrongFilesError as wrong:
        raise await _told(call, wrong) from None
    components = [ParseDict(each, component_pb2.Component()) for each in loaded]
    if not components:
        raise CommandError(f"there are no components in {', '.join(wanted.paths)}")
    for component in components:
        if call.namespace and component.namespace == "default":
            component.namespace = call.namespace
    return (_in_one_namespace(call, components) if wanted.prune else call), components


async def _told(call: Call, wrong: "WrongFilesError") -> CommandError:
    """All that is wrong with files: the rules that they break, and the references that lead nowhere."""
    from retinue.errors import RetinueError

    found = list(wrong.problems)
    try:
        found += await _lost(call, wrong.needs)
        unknown = ""
    except RetinueError as error:
        unknown = f"\nwhat they refer to was not looked for: {error.message}" if wrong.needs else ""
    found.sort(key=lambda each: (each["path"], each["line"]))
    told = "\n".join(each["text"] for each in found)
    return CommandError(f"{count(len(found), 'problem')} in what was given:\n{told}{unknown}")


async def _lost(call: Call, needs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The references to what the registry does not have. Raises RetinueError."""
    names: dict[tuple[str, str], list[str]] = {}
    lost = []
    for need in needs:
        kind, name, namespace = need["kind"], need["name"], need["namespace"]
        if call.namespace and namespace == "default":
            namespace = call.namespace
        if (kind, namespace) not in names:
            async with replace(call, namespace=namespace).open_client() as client:
                found = [each.name async for each in client.components.list(kind_number(kind))]
            names[kind, namespace] = found
        if name not in names[kind, namespace]:
            near = difflib.get_close_matches(name, [*names[kind, namespace], *need["near"]], n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            lost.append({**need, "text": f"{need['text']}: there is no {kind} {name!r}{hint}"})
    return lost


def _in_one_namespace(call: Call, components: "Sequence[component_pb2.Component]") -> Call:
    """What is pruned is what the files are about: never another namespace. Raises CommandError."""
    namespaces = sorted({component.namespace for component in components})
    if len(namespaces) > 1:
        raise CommandError(
            f"--prune is for one namespace, and the files have {', '.join(namespaces)}: give them one by one",
            status=USAGE,
        )
    if call.namespace not in {None, *namespaces}:
        raise CommandError(
            f"--prune is for the namespace of the files, {namespaces[0]}, and --namespace says "
            f"{call.namespace}",
            status=USAGE,
        )
    return replace(call, namespace=namespaces[0])


async def apply_wanted(
    call: Call,
    components: "Sequence[component_pb2.Component]",
    wanted: Wanted,
    *,
    dry_run: bool = False,
    request_id: str | None = None,
) -> "service_pb2.ApplyComponentsResponse":
    """Apply components; what is wrong with them is told by the files that they stand in."""
    from retinue.errors import RetinueError

    try:
        async with call.open_client() as client:
            return await client.components.apply(
                components,
                request_id=request_id,
                dry_run=dry_run,
                prune=wanted.prune,
                prune_labels=wanted.labels,
                force=wanted.force,
            )
    except RetinueError as error:
        raise _placed(error, components) from None


def _placed(error: "RetinueError", components: "Sequence[component_pb2.Component]") -> "RetinueError":
    """The same error with the lines of files in place of the numbers in the request."""
    from retinue.errors import Violation, error_from_facts

    def place(match: re.Match[str]) -> str:
        return file_place(components[int(match[1])].source.file)

    def field(match: re.Match[str]) -> str:
        component = components[int(match[1])]
        below = f".{match[2]}" if match[2] and match[2] != component.WhichOneof("spec") else ""
        return f"{place(match)}: {kind_word(component)}s.{component.name}{below}"

    violations = [
        Violation(_IN_REQUEST.sub(field, each.field), _IN_REQUEST.sub(place, each.description))
        for each in error.violations
    ]
    message = _IN_REQUEST.sub(field, error.message, count=1)
    return error_from_facts(error.reason, _IN_REQUEST.sub(place, message), error.facts, violations)
