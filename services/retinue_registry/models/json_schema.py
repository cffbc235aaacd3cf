"""The rules of a JSON Schema inside a spec: 2020-12, whole in itself."""

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import Annotated, Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from pydantic import AfterValidator

from retinue_registry.models.fields import Broken, refuse
from retinue_registry.models.json_value import JsonMapping
from retinue_registry.nearest import did_you_mean

MAX_FAULTS = 20
"""Broken rules of the dialect that are named; the rest comes when those are mended."""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_RULES = Draft202012Validator(
    Draft202012Validator.META_SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
)

# Where schemas stand in a schema (JSON Schema 2020-12: Core 8.2.4, 10 and 11, Validation 8.5).
_CONDITIONS = ("not", "if", "then", "else")
_CHOICES = ("allOf", "anyOf", "oneOf")
_INNER = ("additionalProperties", "contains", "contentSchema", "items", "propertyNames")
_LEFT_OVER = ("unevaluatedItems", "unevaluatedProperties")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")
_ONE = frozenset((*_CONDITIONS, *_INNER, *_LEFT_OVER))
_MANY = frozenset((*_CHOICES, "prefixItems", *_NAMED))
_SAME_VALUE = frozenset((*_CHOICES, *_CONDITIONS, "dependentSchemas"))
_REFERENCES = ("$ref", "$dynamicRef")
_ANCHORS = ("$anchor", "$dynamicAnchor")

Place = tuple[str | int, ...]


def _check(schema: dict[str, Any]) -> dict[str, Any]:
    refuse(_faults(schema))
    refuse(_Schemas(schema).broken())
    return schema


def _faults(schema: dict[str, Any]) -> Iterator[Broken]:
    for error in islice(_RULES.iter_errors(schema), MAX_FAULTS):
        place = tuple(error.absolute_path)
        if place[-1:] == ("type",) and error.validator == "anyOf":
            near = did_you_mean(str(error.instance), _TYPES)
            yield Broken(place, f"must be one of {', '.join(_TYPES)}, or a list of them{near}")
        else:
            yield Broken(place, f"breaks a rule of JSON Schema: {error.message[:300]}")


class _Schemas:
    """All schemas inside one that keeps the rules of the dialect, and what they refer to."""

    def __init__(self, root: dict[str, Any]) -> None:
        self.found: dict[Place, Any] = {}
        self.anchors: dict[str, Place] = {}
        self.same: dict[Place, list[Place]] = {}
        """For each the schemas that look at the same value as it does."""
        waiting: list[tuple[Place, Any]] = [((), root)]
        while waiting:
            place, schema = waiting.pop()
            self.found[place] = schema
            if isinstance(schema, dict):
                self.anchors |= {schema[name]: place for name in _ANCHORS if name in schema}
                waiting += self._inside(place, schema)
        self.pointers = {tuple(map(str, place)): place for place in self.found}

    def _inside(self, place: Place, schema: dict[str, Any]) -> Iterator[tuple[Place, Any]]:
        for key, value in schema.items():
            below: list[tuple[Place, Any]] = []
            if key in _ONE:
                below = [((*place, key), value)]
            elif key in _MANY:
                items = value.items() if isinstance(value, dict) else enumerate(value)
                below = [((*place, key, name), each) for name, each in items]
            if key in _SAME_VALUE:
                self.same.setdefault(place, []).extend(where for where, _ in below)
            yield from below

    def broken(self) -> Iterator[Broken]:
        """Yield what leads out of the schema, nowhere, or round and round."""
        for place, schema in self.found.items():
            if not isinstance(schema, dict):
                continue
            if schema.get("$schema", _DIALECT).removesuffix("#") != _DIALECT:
                yield Broken((*place, "$schema"), f"must be {_DIALECT}")
            if place and "$id" in schema:
                yield Broken((*place, "$id"), "is only allowed at the top of the schema")
            for name in _REFERENCES:
                if name in schema:
                    yield from self._follow(place, name, schema[name])
        try:
            TopologicalSorter(self.same).prepare()
        except CycleError as error:
            message = "leads back to itself without going deeper into the value: there is no end to it"
            yield Broken(error.args[1][0], message)

    def _follow(self, place: Place, name: str, reference: str) -> Iterator[Broken]:
        shown = repr(reference[:200])
        if not reference.startswith("#"):
            yield Broken(
                (*place, name),
                f"{shown} leads out of the schema: put what it means under $defs, and write #/$defs/NAME",
            )
            return
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            there = self.anchors.get(fragment)
        else:  # RFC 6901
            parts = (part.replace("~1", "/").replace("~0", "~") for part in fragment.split("/")[1:])
            there = self.pointers.get(tuple(parts))
        if there is None:
            yield Broken((*place, name), f"{shown} leads to no schema in here")
        else:
            self.same.setdefault(place, []).append(there)


JsonSchema = Annotated[JsonMapping, AfterValidator(_check)]
"""A JSON Schema, 2020-12."""
