"""`schema`: the JSON Schema of project files, for editors."""

import json
from importlib.resources import files
from typing import Annotated, Any

import typer

from retinue_cli.failures import USAGE, CommandError

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PREFIX = "#/$defs/"


def schema(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="Only the fields of one kind: llm, mcp_server, agent. Else a whole file.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print the JSON Schema (2020-12) of a project's files, so that editors complete and check them.

    `retinue schema > retinue.schema.json`, and this as the first line of a file:

    # yaml-language-server: $schema=retinue.schema.json
    """
    whole = json.loads((files("retinue_cli") / "schema" / "retinue.schema.json").read_text("utf-8"))
    found = whole if kind is None else _of_kind(whole, kind)
    typer.echo(json.dumps(found, indent=2, ensure_ascii=False))


def _of_kind(whole: dict[str, Any], kind: str) -> dict[str, Any]:
    """The schema of one component's fields, with those parts that it needs."""
    listed = {name.removesuffix("s"): each for name, each in whole["properties"].items() if _is_kind(each)}
    if kind not in listed:
        raise CommandError(f"there is no kind {kind!r}: there are {', '.join(listed)}", status=USAGE)
    definitions = whole["$defs"]
    name = listed[kind]["additionalProperties"]["$ref"].removeprefix(_PREFIX)
    needed: dict[str, Any] = {}
    waiting = _references(definitions[name])
    while waiting:
        part = waiting.pop()
        if part not in needed:
            needed[part] = definitions[part]
            waiting += _references(definitions[part])
    return {"$schema": _DIALECT, "title": kind, **definitions[name], "$defs": dict(sorted(needed.items()))}


def _is_kind(key: dict[str, Any]) -> bool:
    inner = key.get("additionalProperties")
    return isinstance(inner, dict) and "$ref" in inner


def _references(value: object) -> list[str]:
    """The names of the parts that a schema refers to."""
    if isinstance(value, list):
        return [name for each in value for name in _references(each)]
    if not isinstance(value, dict):
        return []
    own = value.get("$ref")
    names = [own.removeprefix(_PREFIX)] if isinstance(own, str) else []
    return names + [name for each in value.values() for name in _references(each)]
