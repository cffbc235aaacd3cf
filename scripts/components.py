"""Writes the JSON Schema of project files and docs/components.md; --check says whether they are current.

It needs what the registry needs, and takes the protos from `descriptors.py` on standard input.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from pydantic import TypeAdapter

from descriptors import ROOT
from file_schema import Schema, file_schema
from retinue_registry.kinds import KINDS
from retinue_registry.models.fields import INT32_MAX, INT64_MAX, Duration, KeyReference, Name, Url

PAGE = ROOT / "docs" / "components.md"
SCHEMA = ROOT / "clients" / "python" / "retinue_cli" / "schema" / "retinue.schema.json"

_HEAD = """# Components in files

Made from the protos' comments and the registry's models by `make generate`; change those, not this page.
How files are found and read is in [project-files.md](project-files.md). `retinue schema` prints the same
rules as JSON Schema: `retinue schema > retinue.schema.json`, and editors that speak with yaml-language-server
complete and check a file whose first line is

```yaml
# yaml-language-server: $schema=retinue.schema.json
```

A span of time is `30s`, `1.5s`, `5m`, `250ms`, `1h`, or a number of seconds.
"""
_LARGEST = frozenset({INT32_MAX, INT64_MAX})


def _key(schema: Any) -> str:
    return json.dumps(schema, sort_keys=True)


_KNOWN = {
    _key(TypeAdapter(each).json_schema()): words
    for each, words in (
        (Name, "name"),
        (Url, "address"),
        (KeyReference, "secret reference"),
        (Duration, "span of time"),
    )
}
_END = "...\n"
"""After a scalar that stands alone."""
_PLAIN = {"string": "text", "boolean": "`true` or `false`"}
_TYPE_KEYS = {"description", "default", "examples"}


def type_words(schema: Schema) -> str:
    """A type as people say it."""
    kind = {key: value for key, value in schema.items() if key not in _TYPE_KEYS}
    if known := _KNOWN.get(_key(kind)):
        return known
    if reference := kind.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if words := kind.get("enum", [kind["const"]] if "const" in kind else []):
        return " or ".join(f"`{word}`" for word in words)
    return _plain_type(kind)


def _plain_type(kind: Schema) -> str:
    inner = kind.get("items", kind.get("additionalProperties"))
    match kind["type"]:
        case "integer" | "number":
            return _number(kind)
        case "array":
            return f"list: {type_words(inner)}"
        case "object":
            return f"mapping to {type_words(inner)}" if isinstance(inner, dict) else "mapping"
        case plain:
            return _PLAIN[plain]


def _number(kind: Schema) -> str:
    words = "whole number" if kind["type"] == "integer" else "number"
    least, most = kind.get("minimum"), kind.get("maximum")
    if most is not None and most not in _LARGEST:
        return f"{words}, {least} to {most}"
    return f"{words}, at least {least}" if least is not None and -least - 1 not in _LARGEST else words


def _code(value: object) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.removesuffix(_END).strip()}`"


def _rows(part: Schema) -> Iterator[str]:
    yield "| field | type | default | meaning | example |"
    yield "| --- | --- | --- | --- | --- |"
    for name, field in part["properties"].items():
        default = "**needed**" if name in part.get("required", ()) else ""
        if "default" in field:
            default = _code(field["default"])
        meaning = field["description"].replace("\n- ", "<br>• ").replace("|", "\\|")
        example = _code(field["examples"][0])
        yield f"| `{name}` | {type_words(field)} | {default} | {meaning} | {example} |"
    yield ""


def page(schema: Schema) -> Iterator[str]:
    """The page's lines: a section for each kind, then one for each part."""
    yield _HEAD
    definitions = schema["$defs"]
    kinds = {kind.model.__name__: kind for kind in KINDS.values()}
    for name, kind in kinds.items():
        yield f"## {kind.plural}\n\n{definitions[name]['description']}\n"
        yield from _rows(definitions[name])
    yield "## Parts\n"
    for name, part in definitions.items():
        if name not in kinds:
            yield f"### {name}\n\n{part['description']}\n"
            yield from _rows(part)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where one is stale")
    check = parser.parse_args().check
    schema = file_schema(FileDescriptorSet.FromString(sys.stdin.buffer.read()))
    texts = {
        SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        PAGE: "\n".join(page(schema)).rstrip() + "\n",
    }
    for path, text in texts.items():
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            print(f"{path.relative_to(ROOT)} is not current; run `make generate`")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
