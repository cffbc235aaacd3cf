"""What templates and expressions of a workflow see, and what they make of it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from retinue.errors import ExpressionFailedError, PayloadTooLargeError
from retinue_engine.prompt import render_text
from retinue_kit.expressions import compile_expression, step_names

MAX_OUTPUT_BYTES = 384 * 1024
"""Of one step's output as JSON: its event holds it."""
MAX_LIST = 10_000
"""Values of one list that an expression may go through."""
MAX_SHOWN = 500
"""Characters of the values that an error tells."""

_WHOLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)((?:\.\w+|\[\d+\])*)\s*\}\}")
_PART = re.compile(r"\.(\w+)|\[(\d+)\]")

Values = Mapping[str, Any]
"""The variables, as `variables` makes them, with those that belong to the place."""


def evaluate(source: str, values: Values, step: str, field: str) -> Any:
    """What a CEL expression makes of the values. Raises ExpressionFailedError, PayloadTooLargeError."""
    # Handing over a value costs as much as it is large: only what is named.
    named = step_names(source)
    steps = values["steps"]
    seen = {**values, "steps": {name: steps[name] for name in named if name in steps}}
    try:
        expression = compile_expression(source)
        seen = {name: value for name, value in seen.items() if name in expression.names}
        _check_lists(seen)
        result = expression.evaluate(seen)
        json.dumps(result)
    except Exception as error:  # noqa: BLE001 - an expression raises what the operations in it raise
        raise _failed(str(error) or type(error).__name__, source, seen, step, field) from None
    return result


def truth(source: str, values: Values, step: str, field: str = "condition") -> bool:
    """Whether an expression holds. Raises ExpressionFailedError, also where it is neither true nor false."""
    result = evaluate(source, values, step, field)
    if not isinstance(result, bool):
        raise _failed(f"it is {_shown(result)}, and must be true or false", source, values, step, field)
    return result


def render(template: str, values: Values, step: str, field: str) -> str:
    """A text with the values filled in. Raises ExpressionFailedError."""
    try:
        return render_text(template, values)
    except ValueError as error:
        raise _failed(str(error), template, values, step, field) from None


def render_json(template: Any, values: Values, step: str, field: str) -> Any:
    """A value with each text in it filled in; one that is `{{ name }}` alone becomes that value."""
    if isinstance(template, dict):
        return {key: render_json(each, values, step, f"{field}.{key}") for key, each in template.items()}
    if isinstance(template, list):
        return [render_json(each, values, step, f"{field}[{index}]") for index, each in enumerate(template)]
    if not isinstance(template, str):
        return template
    whole = _WHOLE.fullmatch(template)
    return (
        _look_up(whole[1], whole[2], values, step, field) if whole else render(template, values, step, field)
    )


def _look_up(name: str, path: str, values: Values, step: str, field: str) -> Any:
    try:
        value = values[name]
        for key, index in _PART.findall(path):
            value = value[key] if key else value[int(index)]
    except (KeyError, IndexError, TypeError):
        raise _failed("there is no such value", f"{name}{path}", values, step, field) from None
    return value


def as_json(value: Any, step: str) -> str:
    """A step's output as its event holds it. Raises PayloadTooLargeError."""
    text = json.dumps(value, ensure_ascii=False)
    size = len(text.encode())
    if size > MAX_OUTPUT_BYTES:
        raise PayloadTooLargeError(
            f"the output of the step {step} has {size} bytes, and a workflow takes {MAX_OUTPUT_BYTES}: "
            "select what the next steps need with the step's `output`",
            size_bytes=size,
            limit_bytes=MAX_OUTPUT_BYTES,
        )
    return text


def as_text(value: Any) -> str:
    """A value as an agent is asked it."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _check_lists(value: object) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list):
            if len(each) > MAX_LIST:
                raise ValueError(f"a list has more than {MAX_LIST} values: let a step shorten it")
            waiting += each


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _failed(why: str, source: str, values: Values, step: str, field: str) -> ExpressionFailedError:
    place = f"the step {step}" if step else "the workflow"
    return ExpressionFailedError(
        f"`{field}` of {place} cannot be worked out: {why[:MAX_SHOWN]}; it is {source[:MAX_SHOWN]!r}, "
        f"with {_shown(dict(values))}",
        step=step,
        field=field,
        expression=source,
    )
