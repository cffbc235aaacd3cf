"""JSON inside a spec: a mapping `X` where people write it, a text `X_json` in the protos."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator

from retinue_registry.models.fields import Broken, broken_text, refuse

MAX_JSON_BYTES = 64 * 1024
"""Without the spaces between values."""
MAX_JSON_DEPTH = 28
"""Levels inside one value: what a file of 32 levels has left for it."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class NotJson(NamedTuple):
    """Stands among a spec's values for text that is no JSON."""

    message: str


def read_json_text(text: str) -> object:
    """The value of a JSON text, or NotJson."""
    if len(text.encode()) > MAX_JSON_BYTES:
        return NotJson(f"must have at most {MAX_JSON_BYTES // 1024} KiB")
    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return NotJson(f"is not JSON: {error.msg}, line {error.lineno}, column {error.colno}")
    except ValueError as error:
        return NotJson(str(error))
    except RecursionError:
        return NotJson(f"is nested deeper than {MAX_JSON_DEPTH} levels")


def write_json_text(value: object) -> str:
    """A value as JSON text. Keys keep their order: models are shown it."""
    return _ENCODER.encode(value)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"is not JSON: the key {twice[:80]!r} stands in one object twice")
    return result


def _no_constant(word: str) -> None:
    raise ValueError(f"is not JSON: {word} is no number")


def _readable(value: object) -> object:
    if isinstance(value, NotJson):
        raise ValueError(value.message)  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    refuse(_broken(value))
    size = 0
    try:
        for piece in _ENCODER.iterencode(value):  # piece by piece: aliases make a small file very large
            size += len(piece.encode())
            if size > MAX_JSON_BYTES:
                raise ValueError(f"must have at most {MAX_JSON_BYTES // 1024} KiB as JSON")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    return value


def _broken(value: object) -> Iterator[Broken]:
    """Yield the texts and numbers that may not stand in JSON of a spec."""
    waiting: list[tuple[tuple[str | int, ...], object]] = [((), value)]
    while waiting:
        place, each = waiting.pop()
        inside: list[tuple[str | int, object]] = []
        if isinstance(each, dict):
            inside = list(each.items())
        elif isinstance(each, list):
            inside = list(enumerate(each))
        if inside and len(place) >= MAX_JSON_DEPTH:
            yield Broken(place, f"is nested deeper than {MAX_JSON_DEPTH} levels")
            return
        waiting += [((*place, key), below) for key, below in reversed(inside)]
        for text in (each, place[-1] if place else None):
            if isinstance(text, str) and (wrong := broken_text(text)):
                yield Broken(place, wrong)
                break
        if isinstance(each, float) and each - each != 0:
            yield Broken(place, "must be a finite number")


JsonMapping = Annotated[dict[str, Any], BeforeValidator(_readable), AfterValidator(_bounded)]
"""Any mapping that is JSON."""
