"""Components as project files have them: what `export` and `get` write, and the registry reads again."""

import functools
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import yaml

from retinue_cli.failures import CommandError
from retinue_cli.kinds import ref

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from retinue.registry.v1 import component_pb2
    from retinue_cli.output import Output

_JSON = "_json"
_DURATION = "google.protobuf.Duration"
# What the registry takes for a number, by YAML 1.2; PyYAML knows those of YAML 1.1 by itself.
_NUMBER = re.compile(r"[-+]?(0[ox][0-9a-fA-F]+|(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?)")
_LINE_WIDTH = 100
_SAFE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def file_form(components: "Iterable[component_pb2.Component]") -> dict[str, Any]:
    """What one file holds that gives these components, which are of one namespace."""
    form: dict[str, Any] = {}
    for component in components:
        if component.namespace not in {"", "default"}:
            form.setdefault("namespace", component.namespace)
        kind = component.WhichOneof("spec")
        if kind is None:
            raise CommandError(f"{ref(component)} is of a kind that is newer than this `retinue`")
        form.setdefault(f"{kind}s", {})[component.name] = component_form(component)
    return form


def component_form(component: "component_pb2.Component") -> dict[str, Any]:
    """The labels and the spec of a component, as they stand below its name."""
    labels = {"labels": dict(sorted(component.labels.items()))} if component.labels else {}
    kind = component.WhichOneof("spec")
    return {**labels, **_values(getattr(component, kind))} if kind else labels


def _values(message: "Message") -> dict[str, Any]:
    """The fields that are set: enums as words, spans as `1.5s`, JSON as what it says."""
    result: dict[str, Any] = {}
    for field, value in message.ListFields():
        name, form = _form(field)
        result[name] = form(value)
    return result


@functools.cache
def _form(field: Any) -> tuple[str, Callable[[Any], Any]]:
    part = field.message_type
    if part is not None and part.GetOptions().map_entry:
        return field.name, lambda entries: dict(sorted(entries.items()))
    name, one = _form_of_one(field)
    return name, (lambda items: [one(item) for item in items]) if field.is_repeated else one


def _form_of_one(field: Any) -> tuple[str, Callable[[Any], Any]]:
    if field.message_type is not None:
        return field.name, _span if field.message_type.full_name == _DURATION else _values
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        names = {each.number: each.name.removeprefix(prefix).lower() for each in field.enum_type.values}
        return field.name, lambda number: names.get(number, str(number))
    if field.name.endswith(_JSON) and field.type == field.TYPE_STRING:
        return field.name.removesuffix(_JSON), json.loads
    return field.name, lambda value: value


def _span(span: Any) -> str:
    return f"{span.seconds}.{span.nanos:09}".rstrip("0").rstrip(".") + "s"


class _Dumper(_SAFE_DUMPER):  # type: ignore[misc] # the one in C has no types
    """Writes texts of many lines as such, and in quotes what the registry would take for a number."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _represent_text(dumper: Any, text: str) -> Any:
    style = "|" if "\n" in text else "'" if _NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(form: dict[str, Any]) -> str:
    """The text of a file."""
    text: str = yaml.dump(form, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)
    return text


def write_file_form(output: "Output", text: str) -> None:
    """Print the text of a file: into a file or pipe byte by byte, on a terminal without what steers it."""
    if sys.stdout.isatty():
        output.raw(text)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()
