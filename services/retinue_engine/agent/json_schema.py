"""JSON Schemas that others wrote: compiled with no reference to anything else, checked within bounds.

A check holds the event loop, so neither a schema nor a value may make it long.
"""

import json
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from retinue_engine.agent.json_keywords import PATTERNS, BoundedValidator, TooMuchWorkError, Work, work

MAX_DEPTH = 64
"""Arrays and objects in one another; more is not written by people, nor read by every JSON library."""

MAX_CHECK_S = 1.0
"""How long a check may work."""

_MAX_FAULTS = 10
_MAX_FAULT_CHARS = 300
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


class BadSchemaError(Exception):
    """A schema that cannot be used."""

    def __init__(self, *faults: str) -> None:
        super().__init__(faults[0])
        self.faults = faults
        """What is wrong, each with its place."""


class UncheckableError(Exception):
    """A check that came to no end within its bounds; its text says why."""


class CompiledSchema:
    """A schema of JSON Schema 2020-12, ready to check values."""

    def __init__(self, schema: Any) -> None:
        """Take the schema over: it is changed here. Raises BadSchemaError."""
        if not isinstance(schema, dict):
            raise BadSchemaError("$: a schema is a JSON object")
        try:
            faults = list(map(_fault, _run(_META, schema, _MAX_FAULTS)))
            # Only what the metaschema allows has references that can be followed.
            faults = faults or list(islice(_reference_faults(schema), _MAX_FAULTS))
            if faults:
                raise BadSchemaError(*faults)
            self._validator = BoundedValidator(schema, registry=_registry(schema))
            self.errors(None, 1)
        except UncheckableError as error:
            raise BadSchemaError(f"$: {error}, or the schema refers to itself without end") from None

    def errors(self, value: Any, most: int) -> list[ValidationError]:
        """Why a value does not fit, at most so many errors; none where it fits. Raises UncheckableError."""
        return _run(self._validator, value, most)


def parse_json(text: str) -> Any:
    """Strict JSON, integers as they stand. Raises ValueError for anything else, and past MAX_DEPTH."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from None
    level, depth = [value], 0
    while level := [each for outer in level for each in _inner(outer)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
    return value


def _inner(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)


def _run(validator: Any, value: Any, most: int) -> list[ValidationError]:
    before = work.set(Work(MAX_CHECK_S))
    try:
        return list(islice(validator.iter_errors(value), most))
    except TooMuchWorkError:
        raise UncheckableError("the check takes too long") from None
    except RecursionError:
        raise UncheckableError("it is nested too deeply") from None
    except OverflowError:
        raise UncheckableError("a number is too large") from None
    finally:
        work.reset(before)


def _registry(schema: dict[str, Any]) -> Registry[Any]:
    """What references may lead to: the schema itself."""
    root = DRAFT202012.create_resource(schema)
    empty: Registry[Any] = Registry()
    # Crawled once here, or each reference by an anchor would do it again.
    registry: Registry[Any] = empty.with_resource(root.id() or "", root).crawl()
    return registry


def _fault(error: ValidationError) -> str:
    why = f" ({str(error.cause).splitlines()[-1].strip()})" if error.cause else ""
    return f"{error.json_path}: {error.message[:_MAX_FAULT_CHARS]}{why}"


def _reference_faults(schema: dict[str, Any]) -> Iterator[str]:
    root = DRAFT202012.create_resource(schema)
    waiting = [(root, _registry(schema).resolver_with_root(root))]
    parts: set[int] = set()
    keys: set[str] = set()
    references = []
    while waiting:
        part, resolver = waiting.pop()
        contents: Any = part.contents
        if isinstance(contents, bool):
            continue
        if contents.pop("$schema", _DIALECT).removesuffix("#") != _DIALECT:
            yield f"$schema: only {_DIALECT} is known here; leave it out, and write by its rules"
        parts.add(id(contents))
        keys.update(contents)
        references += [(contents[key], resolver) for key in ("$ref", "$dynamicRef") if key in contents]
        waiting += [(each, resolver.in_subresource(each)) for each in part.subresources()]
    for reference, resolver in references:
        try:
            found = resolver.lookup(reference).contents
        except (Unresolvable, ValueError):
            yield f"{reference}: there is no such place in the schema, and nothing is fetched from elsewhere"
        else:
            if not isinstance(found, bool) and id(found) not in parts:
                yield f"{reference}: what stands there is no schema; put it under $defs"
    if {"unevaluatedProperties", "patternProperties"} <= keys:
        # The library matches the patterns of the one for the other by `re`.
        yield "$: unevaluatedProperties does not go with patternProperties; use additionalProperties"


def _metaschema() -> Any:
    found = {
        uri: DRAFT202012.create_resource(
            {key: each for key, each in part.contents.items() if key != "$schema"}
        )
        for uri, part in REGISTRY.items()
        if uri.startswith(_DIALECT.removesuffix("schema"))
    }
    registry: Registry[Any] = Registry()
    registry = registry.with_resources(found.items()).crawl()
    return BoundedValidator(found[_DIALECT].contents, registry=registry, format_checker=PATTERNS)


_META = _metaschema()
