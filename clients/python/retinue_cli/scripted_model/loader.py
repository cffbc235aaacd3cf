"""YAML into a pydantic model, strictly: each error names file, line, path and the nearest valid key."""

import difflib
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)
_Path = tuple[str | int, ...]


class ScriptError(Exception):
    """A script that breaks the format; its text names file and line of each fault."""


def validated(model: type[Model], source: str, file: str) -> Model:
    """The YAML in `source` as the model."""
    try:
        root = yaml.compose(source, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScriptError(f"{file}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScriptError(f"{file}: not YAML: {error}") from None
    if root is None:
        raise ScriptError(f"{file}:1: the file is empty")
    lines: dict[_Path, int] = {}
    try:
        plain = _plain(root, (), lines, file)
    except RecursionError:
        raise ScriptError(f"{file}: nested too deeply") from None
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        faults = [_fault(model, each["loc"], each["type"], each["msg"], lines) for each in error.errors()]
        raise ScriptError("\n".join(f"{file}:{line}: {text}" for line, text in sorted(faults))) from None


def _plain(node: yaml.Node, path: _Path, lines: dict[_Path, int], file: str) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, (*path, place), lines, file) for place, each in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = _plain(key_node, (*path, "<key>"), {}, file)
            if not isinstance(key, str):
                raise ScriptError(f"{file}:{line}: {_dotted(path)}: the key {key!r} is not text; quote it")
            if key in mapping:
                raise ScriptError(f"{file}:{line}: {_dotted((*path, key))}: the key stands twice")
            lines[*path, key] = line
            mapping[key] = _plain(value_node, (*path, key), lines, file)
        return mapping
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        line = node.start_mark.line + 1
        raise ScriptError(f"{file}:{line}: {_dotted(path)}: not plain YAML: {error}") from None


def _fault(
    model: type[BaseModel], loc: _Path, kind: str, text: str, lines: dict[_Path, int]
) -> tuple[int, str]:
    # pydantic's loc may end in the name of a union's member, which is no path of the file.
    path = loc
    while path and path not in lines:
        path = path[:-1]
    if kind == "extra_forbidden":
        text = f"unknown key{_nearest(model, loc)}"
    elif kind == "missing":
        text = f"the key {loc[-1]!r} is missing"
    return lines.get(path, 1), f"{_dotted(path)}: {text.removeprefix('Value error, ')}"


def _nearest(model: type[BaseModel], loc: _Path) -> str:
    owner = _model_at(model, loc[:-1])
    if owner is None:
        return ""
    valid = list(owner.model_fields)
    near = difflib.get_close_matches(str(loc[-1]), valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid are {', '.join(valid)}"


def _model_at(model: type[BaseModel], path: _Path) -> type[BaseModel] | None:
    for step in path:
        if isinstance(step, str) and step in model.model_fields:
            found = _model_in(model.model_fields[step].annotation)
            if found is None:
                return None
            model = found
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {list, Union, UnionType, Annotated}:
        return next((found for each in get_args(annotation) if (found := _model_in(each))), None)
    return None


def _dotted(path: _Path) -> str:
    return ".".join(str(step) for step in path) or "the script"
