"""Finds what a workflow asks of its input, or of a step's answer, that the schema which declares it lacks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import TemplateSyntaxError

from retinue_kit.expressions import named_paths
from retinue_registry.component import Draft, Key
from retinue_registry.models.template import template_paths
from retinue_registry.nearest import did_you_mean

Place = tuple[str | int, ...]
SpecOf = Callable[[Key], Mapping[str, Any] | None]
"""The spec of a component, as far as it is known."""

_PARTS = ("steps", "nodes", "edges", "output")
_EXPRESSIONS = frozenset(("condition", "output", "when", "items", "until", "expression"))
_SCHEMAS = frozenset(("answer_schema", "input_schema"))
_OPEN = ("$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas")
"""What lets a schema say more of its properties than `properties` does."""


def mismatches(draft: Draft, spec_of: SpecOf) -> Iterator[tuple[Place, str]]:
    """Yield what a workflow names that is not declared: the place in its spec, and what to say."""
    if draft.key.kind not in ("linear_workflow", "graph_workflow"):
        return
    spec = draft.spec.model_dump(exclude_none=True)
    declared = dict(_declared(draft.key.namespace, spec, spec_of))
    for place, path in _named(spec):
        if message := _lacking(declared, path):
            yield place, message


def _declared(
    namespace: str, spec: Mapping[str, Any], spec_of: SpecOf
) -> Iterator[tuple[Place, tuple[str, Any]]]:
    """Yield the paths whose schemas are known, each with whose it is."""
    yield ("input",), ("the workflow's input_schema", spec.get("input_schema"))
    for step in spec.get("steps") or spec.get("nodes") or ():
        if step.get("output") or step.get("fallback"):
            continue
        name = step["name"]
        if agent := step.get("agent"):
            answers = (spec_of(Key(namespace, "agent", agent)) or {}).get("output_schema")
            yield ("steps", name, "output"), (f"the agent {agent}'s output_schema", answers)
        elif ask := step.get("ask"):
            yield ("steps", name, "output"), (f"the step {name}'s answer_schema", ask.get("answer_schema"))


def _lacking(declared: Mapping[Place, tuple[str, Any]], path: tuple[str, ...]) -> str:
    """What is wrong with a path; empty where nothing is, or nothing is known."""
    for length in (1, 3):
        whose, schema = declared.get(path[:length], ("", None))
        for at, name in enumerate(path[length:], length):
            known = _properties(schema)
            if known is None:
                break
            if name not in known:
                return (
                    f"names {'.'.join(path[: at + 1])}, and {whose} declares {', '.join(known)}"
                    f"{did_you_mean(name, known)}"
                )
            schema = known[name]
    return ""


def _properties(schema: object) -> Mapping[str, Any] | None:
    """The properties that a schema's objects may have; None where it does not say all of them."""
    if not isinstance(schema, Mapping) or any(word in schema for word in _OPEN):
        return None
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or schema.get("additionalProperties"):
        return None
    return properties


def _named(spec: Mapping[str, Any]) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """Yield what templates and expressions of a workflow name, with where they stand."""
    for place, text in _texts(tuple((part,) for part in _PARTS), spec):
        if _is_expression(place):
            paths = named_paths(text)
        elif "{{" in text or "{%" in text:
            try:
                paths = set(template_paths(text))
            except TemplateSyntaxError:
                continue  # said elsewhere
        else:
            continue
        for path in sorted(paths):
            yield place, path


def _is_expression(place: Place) -> bool:
    if "arguments" in place:
        return False
    return place[-1] in _EXPRESSIONS or (len(place) > 1 and place[-2] == "set")


def _texts(begin: Sequence[Place], spec: Mapping[str, Any]) -> Iterator[tuple[Place, str]]:
    waiting: list[tuple[Place, Any]] = [(place, spec.get(str(place[0]))) for place in begin]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, Mapping):
            waiting += [((*place, key), each) for key, each in value.items() if key not in _SCHEMAS]
        elif isinstance(value, Sequence):
            waiting += [((*place, index), each) for index, each in enumerate(value)]
