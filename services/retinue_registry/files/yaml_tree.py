"""Reads YAML into a Tree from the parser's events: nothing is built that the limits forbid."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from retinue_registry.files.tree import Fault, Place, Tree, UnreadableError

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_CONSTANTS: dict[str, bool | None] = dict.fromkeys(("", "~", "null", "Null", "NULL"))
for _yes, _no in (("true", "false"), ("yes", "no"), ("on", "off")):
    for _form in (str.lower, str.capitalize, str.upper):
        _CONSTANTS[_form(_yes)] = True
        _CONSTANTS[_form(_no)] = False

# YAML 1.2, core schema: 1:30 is text, and so is 1_000.
_INT = re.compile(r"[-+]?[0-9]{1,64}")
_BASED = re.compile(r"0o[0-7]{1,64}|0x[0-9a-fA-F]{1,64}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,64}|[0-9]{1,64}(\.[0-9]{0,64})?)([eE][-+]?[0-9]{1,3})?")
_NUMBER_START = frozenset("0123456789+-.")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAGS = frozenset({None, "!", *(f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq"))})
_STR = "tag:yaml.org,2002:str"
_UNSET = object()


@dataclass(slots=True)
class _Open:
    """A mapping or list that has not ended."""

    value: dict[str, Any] | list[Any]
    place: Place
    anchor: str | None
    values_before: int
    key: Any = _UNSET


def _plain(text: str) -> Any:
    """What a scalar without quotes means."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] in _NUMBER_START:
        if _INT.fullmatch(text):
            return int(text)
        if _BASED.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
    return text


class _Builder:
    """Takes one file's events in."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.documents = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self.scalar(event, line)
        elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
            self.begin(event, {} if kind is yaml.MappingStartEvent else [], line)
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            done = self.stack.pop()
            self.name(done.anchor, done.value, self.tree.values - done.values_before)
        elif kind is yaml.AliasEvent:
            if event.anchor not in self.anchors:
                raise UnreadableError(
                    line, f"the alias *{event.anchor} stands before or inside of what it names"
                )
            value, values = self.anchors[event.anchor]
            self.tree.count(line, values)
            self.put(value, line)
        elif kind is yaml.DocumentStartEvent:
            self.documents += 1
            if self.documents > 1:
                raise UnreadableError(line, "a second document begins here: a file holds one")

    def scalar(self, event: Any, line: int) -> None:
        text, tag = event.value, event.tag
        if tag not in _TAGS:
            raise UnreadableError(line, f"the tag {tag[:80]} is not supported: write the value plainly")
        if event.style == '"' and _SURROGATE.search(text):
            raise UnreadableError(line, "holds half of a surrogate pair, which is not text")
        self.tree.count(line)
        value = _plain(text) if not event.style and tag is None else text  # libyaml says '' for None
        self.name(event.anchor, value, 1)
        self.put(value, line)

    def begin(self, event: Any, value: dict[str, Any] | list[Any], line: int) -> None:
        if event.tag not in _TAGS or event.tag == _STR:
            raise UnreadableError(line, f"the tag {event.tag[:80]} is not supported: write the value plainly")
        self.tree.count(line)
        self.anchors.pop(event.anchor, None)
        place = self.put(value, line)
        self.tree.enter(line, place)
        self.stack.append(_Open(value, place, event.anchor, self.tree.values - 1))

    def name(self, anchor: str | None, value: Any, values: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, values)

    def put(self, value: Any, line: int) -> Place:
        """Place a value where it stands: the document, an item of a list, a key or its value."""
        if not self.stack:
            self.tree.data = value
            self.tree.lines[()] = line
            return ()
        top = self.stack[-1]
        if isinstance(top.value, list):
            place = (*top.place, len(top.value))
            top.value.append(value)
            self.tree.lines[place] = line
            return place
        if top.key is _UNSET:
            top.key = self.key(value, line, top)
            return (*top.place, str(top.key))
        place = (*top.place, top.key)
        top.value[top.key] = value
        top.key = _UNSET
        return place

    def key(self, value: Any, line: int, top: _Open) -> str:
        if isinstance(value, str):
            place = (*top.place, value)
            if value == "<<":
                raise UnreadableError(line, "the merge key << is not supported: write the keys out")
            if value in top.value:
                self.tree.twice(line, place)
            else:
                self.tree.lines[place] = line
            return value
        if isinstance(value, dict | list):
            raise UnreadableError(line, "a key must be text, not a list or mapping")
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        self.tree.faults.append(Fault(line, top.place, f"the key {shown} is not text: put it in quotes"))
        return shown


def _events(text: str) -> Iterator[Any]:
    loader = _LOADER(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    finally:
        loader.dispose()


def read_yaml(text: str) -> Tree:
    """The tree of a YAML text. Raises UnreadableError."""
    tree = Tree()
    builder = _Builder(tree)
    try:
        for event in _events(text):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise UnreadableError(*_explain(error, text)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnreadableError(line, "holds a character that YAML does not allow") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise UnreadableError(0, f"is not YAML: {error}") from None
    return tree


def _explain(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    said = ", ".join(part for part in (error.context, error.problem) if part)
    if mark is None:
        return 0, f"is not YAML: {said}"
    lines = text.split("\n")
    where = lines[mark.line] if mark.line < len(lines) else ""
    if where[mark.column : mark.column + 1] == "\t" or where[: len(where) - len(where.lstrip())].count("\t"):
        return mark.line + 1, "a tab cannot indent YAML: use spaces"
    return mark.line + 1, f"is not YAML: {said}"
