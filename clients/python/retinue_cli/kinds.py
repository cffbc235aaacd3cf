"""How components are called on the command line: `agent/assistant`."""

import difflib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retinue_cli.failures import USAGE, CommandError

if TYPE_CHECKING:
    from retinue.registry.v1 import component_pb2, service_pb2

KINDS = {
    "llm": 1,
    "mcp_server": 2,
    "agent": 3,
    "linear_workflow": 4,
    "graph_workflow": 5,
    "custom_workflow": 6,
}
"""ComponentKind, without importing the stubs; a test holds them to the proto."""

LAYERS = {1: "project", 2: "workspace", 3: "user", 4: "package"}
"""FileLayer, likewise."""

Component = Annotated[
    str, typer.Argument(metavar="KIND/NAME", help="Such as `agent/assistant`.", show_default=False)
]


def kind_number(name: str) -> Any:
    """A kind by its name, also in the plural and with a hyphen; 0 for none. Raises CommandError."""
    if not name:
        return 0
    plain = name.lower().replace("-", "_")
    number = KINDS.get(plain) or KINDS.get(plain.removesuffix("s"))
    if number is None:
        near = difflib.get_close_matches(plain, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(KINDS)}"
        raise CommandError(f"{name!r} is no kind of component: {hint}", status=USAGE)
    return number


def component_from(text: str) -> tuple[Any, str]:
    """The kind's number and the name in `KIND/NAME`. Raises CommandError."""
    kind, slash, name = text.partition("/")
    if not slash:
        known = kind.lower().replace("-", "_").removesuffix("s") in KINDS
        way = f"write {kind}/NAME" if known else f"write its kind before it, such as agent/{kind}"
        raise CommandError(f"{text!r} does not name one component: {way}", status=USAGE)
    number = kind_number(kind)
    if not number:
        raise CommandError(f"{text!r} has no kind: write agent{text}", status=USAGE)
    if not name:
        raise CommandError(f"{text!r} has no name: write {kind}/NAME", status=USAGE)
    return number, name


def kind_word(component: "component_pb2.Component | component_pb2.ComponentRef") -> str:
    """A component's kind, `agent`; `?` for one that this `retinue` does not know."""
    return next((name for name, number in KINDS.items() if number == component.kind), "?")


def ref(component: "component_pb2.Component | component_pb2.ComponentRef") -> str:
    """`agent/assistant`."""
    return f"{kind_word(component)}/{component.name}"


def origin(component: "component_pb2.Component") -> str:
    """Where a component comes from: `agents.yaml:3`, `user: llms.yaml:2`, or `API`."""
    source = component.source
    if source.WhichOneof("origin") == "file":
        return file_place(source.file)
    return "API"


def file_place(place: "component_pb2.FileSource | service_pb2.Problem") -> str:
    """A place in a file; of another layer than the project with its name before it."""
    text = f"{place.path}:{place.line}" if place.line else place.path
    layer = LAYERS.get(place.layer, "")
    if layer in {"", "project"}:
        return text
    return f"{layer} {place.distribution}: {text}" if place.distribution else f"{layer}: {text}"
