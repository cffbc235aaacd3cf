"""The keywords of JSON Schema, each within the bounds of the check under way.

The library matches patterns by `re`, which some keep busy for ever, and compares items each with each; here
patterns are matched by an engine that is linear, and every keyword looks at the deadline.
"""

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from pydantic_core import SchemaError, SchemaValidator, core_schema

_Keyword = Callable[[Any, Any, Any, Any], Any]


class TooMuchWorkError(Exception):
    """A check that has used up its time."""


class Work:
    """One check: how long it may go on, and the patterns compiled for it.

    They go with it: kept with their schemas, a few of the largest would fill the memory.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.thread_time() + seconds
        self._patterns: dict[str, SchemaValidator] = {}

    def go_on(self) -> None:
        """Raise TooMuchWorkError past the deadline."""
        if time.thread_time() > self._deadline:
            raise TooMuchWorkError

    def matches(self, pattern: str, text: str) -> bool:
        """Whether a pattern is found in a text; raises pydantic_core's SchemaError where it is none."""
        compiled = self._patterns.get(pattern)
        if compiled is None:
            compiled = self._patterns[pattern] = SchemaValidator(core_schema.str_schema(pattern=pattern))
        return compiled.isinstance_python(text)


work: ContextVar[Work] = ContextVar("work")
"""The check under way."""


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not work.get().matches(pattern, value):
        yield ValidationError("the pattern is not found")


def _pattern_properties(
    validator: Any, patterns: dict[str, Any], value: Any, _schema: Any
) -> Iterator[ValidationError]:
    if isinstance(value, dict):
        for pattern, schema in patterns.items():
            for key, each in value.items():
                if work.get().matches(pattern, key):
                    yield from validator.descend(each, schema, path=key, schema_path=pattern)


def _additional_properties(
    validator: Any, rest: Any, value: Any, schema: dict[str, Any]
) -> Iterator[ValidationError]:
    if not isinstance(value, dict):
        return
    named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    matches = work.get().matches
    more = [key for key in value if key not in named and not any(matches(each, key) for each in patterns)]
    if rest is not False:
        for key in more:
            yield from validator.descend(value[key], rest, path=key)
    elif more:
        known = ", ".join([*map(repr, named), *(f"those like {each!r}" for each in patterns)]) or "none"
        yield ValidationError(f"unknown keys {', '.join(map(repr, more))} (known: {known})")


def _unique_items(_validator: Any, unique: bool, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if unique and isinstance(value, list) and len({_identity(each) for each in value}) < len(value):
        yield ValidationError("an item stands twice")


def _identity(value: Any) -> Any:
    """The same for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, dict):
        return dict, frozenset((key, _identity(each)) for key, each in value.items())
    if isinstance(value, list):
        return list, tuple(map(_identity, value))
    return (bool, value) if isinstance(value, bool) else value


def _within_bounds(keyword: _Keyword) -> _Keyword:
    def check(validator: Any, wanted: Any, value: Any, schema: Any) -> Any:
        work.get().go_on()
        return keyword(validator, wanted, value, schema)

    return check


_OWN: dict[str, _Keyword] = {
    "additionalProperties": _additional_properties,
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "uniqueItems": _unique_items,
}

BoundedValidator: Any = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {name: _within_bounds(each) for name, each in {**Draft202012Validator.VALIDATORS, **_OWN}.items()},
)
"""A validator class of JSON Schema 2020-12. Schemas must not hold `$schema`: the library would go over to its
own class. To be used while `work` is set."""

PATTERNS = FormatChecker(formats=())
"""Knows the format `regex` alone, as the metaschema uses it."""


@PATTERNS.checks("regex", raises=SchemaError)
def _is_pattern(text: object) -> bool:
    if isinstance(text, str):
        work.get().matches(text, "")
    return True
