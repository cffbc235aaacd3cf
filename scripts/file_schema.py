"""The JSON Schema of a project's files: rules from the registry's models, words from the protos' comments."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from pydantic import TypeAdapter

from descriptors import ENUMS, MESSAGES, NESTED, comments_of
from retinue_registry.kinds import KINDS
from retinue_registry.models.fields import Labels, Name, Part
from retinue_registry.models.file import FileKeys

Schema = dict[str, Any]

_PACKAGE = "retinue.registry.v1"
_COMPONENT, _LABELS = "Component", "labels"


class Said(NamedTuple):
    """What the protos say of a message."""

    comment: str
    fields: Mapping[str, str]
    """Comments by the fields' names in files."""
    words: Mapping[str, Mapping[str, str]]
    """Of the fields that are enums, what each word means."""


def said_by(protos: FileDescriptorSet) -> dict[str, Said]:
    """The registry's messages by name."""
    enums: dict[str, dict[str, str]] = {}
    found: dict[str, Said] = {}
    files = [(file, comments_of(file)) for file in protos.file if file.package == _PACKAGE]
    for file, comments in files:
        for place, enum in enumerate(file.enum_type):
            prefix = enum.value[0].name.removesuffix("UNSPECIFIED")
            enums[f".{_PACKAGE}.{enum.name}"] = {
                value.name.removeprefix(prefix).lower(): comments[ENUMS, place, NESTED, number]
                for number, value in enumerate(enum.value)
                if number
            }
    for file, comments in files:
        for place, message in enumerate(file.message_type):
            fields = {
                field.name.removesuffix("_json"): comments[MESSAGES, place, NESTED, number]
                for number, field in enumerate(message.field)
            }
            words = {each.name: enums[each.type_name] for each in message.field if each.type_name in enums}
            found[message.name] = Said(comments[MESSAGES, place], fields, words)
    return found


def file_schema(protos: FileDescriptorSet) -> Schema:
    """The schema of a file, the anchor included; each kind is under `$defs` by the name of its message."""
    said = said_by(protos)
    definitions: dict[str, Schema] = {}
    kinds: dict[str, Schema] = {}
    for kind in KINDS.values():
        for name, part in _parts(kind.model):
            definitions[name] = _described(part, said[name])
        spec = definitions[kind.model.__name__]
        labels = _clean(Labels.model_json_schema()["properties"][_LABELS])
        labels["description"] = said[_COMPONENT].fields[_LABELS]
        spec["properties"][_LABELS] = labels
        kinds[kind.plural] = {
            "description": f"{spec['description'].rstrip('.')}: components of the kind {kind.name}, by name.",
            "type": ["object", "null"],
            "propertyNames": TypeAdapter(Name).json_schema(),
            "additionalProperties": {"$ref": f"#/$defs/{kind.model.__name__}"},
        }
    keys = FileKeys.model_json_schema()["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A file of a Retinue project",
        "description": "retinue.yaml, or a file that it includes.",
        "type": ["object", "null"],
        "additionalProperties": False,
        "properties": {name: _clean(each) for name, each in keys.items()} | kinds,
        "$defs": dict(sorted(definitions.items())),
    }


def _parts(model: type[Part]) -> Iterator[tuple[str, Schema]]:
    schema = model.model_json_schema()
    yield from schema.pop("$defs", {}).items()
    yield model.__name__, schema


def _described(part: Schema, said: Said) -> Schema:
    properties = {}
    for name, each in part["properties"].items():
        words = said.words.get(name, {})
        means = "".join(f"\n- {word}: {meaning}" for word, meaning in words.items() if word in str(each))
        properties[name] = {"description": said.fields[name] + means, **_clean(each)}
    rest = {key: value for key, value in part.items() if key not in {"title", "description", "properties"}}
    return {"description": said.comment, **rest, "properties": properties}


def _clean(schema: Schema) -> Schema:
    """A field's schema without null, which is no value that anybody means, and without made-up titles."""
    result = {key: value for key, value in schema.items() if key != "title"}
    if result.get("default", ...) is None or result.get("default") == {}:
        del result["default"]
    choices = [each for each in result.pop("anyOf", []) if each != {"type": "null"}]
    if len(choices) == 1:
        result |= choices[0]
    elif choices:
        result["anyOf"] = choices
    if patterns := result.pop("patternProperties", None):
        ((pattern, value),) = patterns.items()
        result |= {"propertyNames": {"pattern": pattern}, "additionalProperties": value}
    return result
