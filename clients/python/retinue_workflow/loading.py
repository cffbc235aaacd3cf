"""From `module:Class` to code that can be run: what it takes, and what it gives."""

import contextlib
import importlib
import inspect
import json
import typing
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from retinue.errors import InvalidArgumentError


class NotLoadedError(Exception):
    """The code cannot be used as a workflow; its text says why."""


@dataclass(frozen=True)
class Code:
    """A workflow's code."""

    run: Any
    """Its bound method."""
    is_async: bool
    takes: Any
    """The annotation of its input; Any where there is none."""
    gives: Any
    """That of its output."""

    def read_input(self, input_json: str) -> Any:
        """The input as the code's own type. Raises InvalidArgumentError."""
        value = json.loads(input_json)
        if self.takes in (Any, str):
            return value
        if isinstance(value, str):
            # Of a text that is no JSON the type says what is wrong.
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        try:
            return TypeAdapter(self.takes).validate_python(value)
        except ValueError as error:
            raise InvalidArgumentError(f"the input does not fit the workflow's own type: {error}") from None

    def write_output(self, value: Any) -> str:
        """The output as JSON. Raises ValueError where it does not fit its type."""
        adapter = TypeAdapter(self.gives)
        checked = adapter.validate_python(value)
        return json.dumps(adapter.dump_python(checked, mode="json"), ensure_ascii=False)


def load(entry_point: str) -> Code:
    """The code that `module:Class` names. Raises NotLoadedError, and whatever importing it raises."""
    module_name, _, class_name = entry_point.partition(":")
    module = importlib.import_module(module_name)
    found = getattr(module, class_name, None)
    if not inspect.isclass(found):
        names = ", ".join(name for name, each in vars(module).items() if inspect.isclass(each)) or "none"
        raise NotLoadedError(f"{module_name} has no class {class_name!r}; its classes are {names}")
    run = getattr(found(), "run", None)
    if not callable(run):
        raise NotLoadedError(f"{entry_point} has no method `run`: write `async def run(self, ctx, input)`")
    parameters = list(inspect.signature(run).parameters.values())
    if len(parameters) != 2:  # noqa: PLR2004 - the context and the input
        raise NotLoadedError(f"{entry_point}.run must take two arguments, the context and the input")
    hints = typing.get_type_hints(run)
    takes = hints.get(parameters[1].name, Any)
    return Code(run, inspect.iscoroutinefunction(run), takes, hints.get("return", Any))
