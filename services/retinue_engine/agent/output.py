"""Structured output: what a model is told of a schema, and whether its answer fits."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jsonschema.exceptions import ValidationError, best_match

from retinue.errors import InvalidArgumentError, Violation
from retinue_engine.agent.json_schema import BadSchemaError, CompiledSchema, UncheckableError, parse_json
from retinue_engine.llm.tool_calls import without_surrogates

MAX_SCHEMA_BYTES = 64 * 1024

MAX_ERRORS = 10
"""Of one answer are told to the model."""

_MAX_EXCERPT_CHARS = 300

_AGAIN = "Answer again with the corrected JSON alone: no words before or after it."

_SAID_BY_LIBRARY = {
    "required",
    "dependentRequired",
    "additionalProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
}
"""Keywords whose errors are about keys or items, which the library names."""


class Checked(NamedTuple):
    """What came of an answer; one of the two is empty."""

    structured_json: str
    """The answer as compact JSON, where it fits."""
    complaint: str
    """What the model is told, where it does not."""

    @property
    def wrong(self) -> str:
        """What does not fit, without what a model is to do about it."""
        return self.complaint.removesuffix(f"\n{_AGAIN}")


class OutputSchema:
    """A schema that answers must fit, compiled once."""

    def __init__(self, schema_json: str, field: str = "output_schema_json") -> None:
        """Compile; raises InvalidArgumentError with violations of `field`.

        The schema is one of JSON Schema 2020-12, at most MAX_SCHEMA_BYTES, with references only to itself.
        """
        if len(schema_json.encode(errors="replace")) > MAX_SCHEMA_BYTES:
            raise _invalid(field, [f"the schema has more than {MAX_SCHEMA_BYTES} bytes; make it smaller"])
        try:
            self.schema: Mapping[str, Any] = parse_json(schema_json)
        except ValueError as error:
            raise _invalid(field, [f"not JSON: {error}"]) from None
        try:
            self._compiled = CompiledSchema(parse_json(schema_json))
        except BadSchemaError as error:
            raise _invalid(field, error.faults) from None

    @property
    def instruction(self) -> str:
        """What stands in the system prompt for a model that is not given the schema otherwise."""
        return (
            "Your final answer must be one JSON value that fits the JSON Schema below, and nothing else: "
            f"no words before or after it, no code fence.\n\n{_compact(self.schema)}"
        )

    def check(self, text: str) -> Checked:
        """Hold an answer against the schema. Raises nothing, whatever a model writes."""
        try:
            value = parse_json(_unfenced(text))
        except ValueError as error:
            return _complain(f"Your answer is not valid JSON: {error}.")
        try:
            errors = self._compiled.errors(value, MAX_ERRORS + 1)
        except UncheckableError as error:
            return _complain(f"Your answer cannot be checked against the JSON Schema: {error}.")
        if not errors:
            return Checked(_compact(value), "")
        lines = [f"- {_line(error)}" for error in errors[:MAX_ERRORS]]
        if len(errors) > MAX_ERRORS:
            lines.append("- and more")
        return _complain("\n".join(["Your answer does not fit the JSON Schema:", *lines]))


def _complain(what: str) -> Checked:
    what = f"{what}\n{_AGAIN}"
    return Checked("", without_surrogates(what))


def _line(error: ValidationError) -> str:
    line = f"{_cut(error.json_path)}: {_found(error)}, {_expected(error)}"
    if error.context:
        # None of several alternatives fits: say what is wrong with the one that comes nearest.
        nearest = best_match([error])
        if nearest is not None and nearest is not error:
            line += f"; nearest: {_cut(nearest.json_path)}: {_found(nearest)}, {_expected(nearest)}"
    return line


def _found(error: ValidationError) -> str:
    if error.validator in _SAID_BY_LIBRARY:
        return _cut(error.message)
    return f"found {_cut(_compact(error.instance))}"


def _expected(error: ValidationError) -> str:
    if not error.validator:
        return "expected nothing"  # `false` as a schema allows nothing, and no keyword says so
    return f"expected {_cut(_compact({error.validator: error.validator_value}))}"


def _unfenced(text: str) -> str:
    text = text.strip()
    if len(text) >= 6 and text.startswith("```") and text.endswith("```"):  # noqa: PLR2004 (two fences)
        text = text[3:-3]
        return text[4:] if text[:4].lower() == "json" else text
    return text


def _compact(value: Any) -> str:
    # Halves of surrogate pairs may be written as escapes, and no store or wire takes them.
    return without_surrogates(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_EXCERPT_CHARS else f"{text[:_MAX_EXCERPT_CHARS]}…"


def _invalid(field: str, faults: Sequence[str]) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"{field} is not a JSON Schema that can be used: {faults[0]}",
        violations=[Violation(field, fault) for fault in faults],
    )
