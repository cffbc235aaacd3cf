"""From values as they were written to a spec that keeps every rule, or to all the rules that it breaks."""

import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from retinue_registry.kinds import KINDS
from retinue_registry.models import Spec
from retinue_registry.models.fields import NAME, Broken, Labels, Part
from retinue_registry.nearest import did_you_mean

Place: typing.TypeAlias = tuple[str | int, ...]

LABELS = "labels"
"""The key beside a spec's fields that holds the component's labels."""

_SAID = {"missing": "is missing"}
_KEY_MARK = "[key]"
"""What pydantic adds to the place of an error in a mapping's key."""


def field_text(place: Iterable[str | int]) -> str:
    """A place as people read it: `agents.assistant.mcp_servers[1]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def check_name(name: str) -> str | None:
    """What is wrong with the name of a component or a namespace; None where nothing is."""
    if NAME.fullmatch(name):
        return None
    return f"{name[:80]!r} is not a name: use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit"


def check_spec(kind: str, given: Mapping[str, Any]) -> tuple[Spec | None, list[Broken]]:
    """The spec that `given` makes, or None and every rule of its kind that it breaks."""
    model = KINDS[kind].model
    broken = list(model.across(given))
    spec: Spec | None = None
    try:
        spec = model.model_validate(dict(given))
    except ValidationError as error:
        broken.extend(_explain(model, error, extra=(LABELS,)))
    return (None if broken else spec), broken


def check_labels(given: object) -> tuple[dict[str, str], list[Broken]]:
    """The labels that `given` makes, and every rule that it breaks."""
    try:
        return dict(Labels.model_validate({LABELS: given}).labels), []
    except ValidationError as error:
        return {}, list(_explain(Labels, error))


def _explain(model: type[Part], error: ValidationError, extra: Sequence[str] = ()) -> Iterator[Broken]:
    for detail in error.errors(include_url=False):
        place = tuple(part for part in detail["loc"] if part != _KEY_MARK)
        yield Broken(place, _message(model, detail, place, extra))


def _message(model: type[Part], detail: ErrorDetails, place: Place, extra: Sequence[str]) -> str:
    given, context, kind = detail["input"], detail.get("ctx", {}), detail["type"]
    if kind == "extra_forbidden":
        names = [*_fields_at(model, place[:-1]), *(extra if len(place) == 1 else ())]
        near = did_you_mean(str(place[-1]), names)
        return "there is no such key" + (near or f"; there are {', '.join(sorted(names))}")
    if kind == "literal_error":
        near = did_you_mean(str(given), re.findall(r"'([^']*)'", context["expected"]))
        return f"must be {context['expected']}{near}"
    if given is None:
        return "has no value: give it one, or leave the key out"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"must be text, and {_as_written(given)} is not: put it in quotes"
    return _SAID.get(kind) or str(context.get("error") or _plain_words(detail["msg"]))


def _as_written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)[:80]


def _plain_words(message: str) -> str:
    for said, meant in (
        ("Input should be a valid ", "must be a "),
        ("Input should be ", "must be "),
        ("a integer", "a whole number"),
        ("a boolean", "true or false"),
        ("a string", "text"),
        ("a dictionary or instance of ", "a mapping: "),
        ("a dictionary", "a mapping"),
        ("String should have", "must have"),
        ("List should have", "must have"),
        ("Dictionary should have", "must have"),
        (" after validation", ""),
    ):
        message = message.replace(said, meant)
    return re.sub(r"mapping: \w+", "mapping", message)


def _fields_at(model: type[BaseModel], place: Place) -> list[str]:
    """The names of the fields of the part that stands at a place."""
    for part in place:
        if isinstance(part, int):  # one of a list: the model is that of each
            continue
        field = model.model_fields.get(part)
        below = _part_of(field.annotation) if field else None
        if below is None:
            return []
        model = below
    return list(model.model_fields)


def _part_of(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Part) else None
    return next((found for each in typing.get_args(annotation) if (found := _part_of(each))), None)
