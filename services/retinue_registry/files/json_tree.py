"""Reads JSON into a Tree. The standard library's reader knows no lines, and the last of equal keys wins."""

import re
from collections.abc import Callable
from json import JSONDecodeError, decoder
from typing import Any

from retinue_registry.files.tree import Place, Tree, UnreadableError

# Reads a string from behind its quote: the text, and where it ends. The stubs do not know it.
_scanstring: Callable[[str, int, bool], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]
_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,63})(\.[0-9]{1,64})?([eE][-+]?[0-9]{1,3})?")
_CONSTANTS = (("true", True), ("false", False), ("null", None))
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Reader:
    """Reads one text. Its depth is bounded by the tree's."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = Tree()
        self.at = 0
        self.line = 1
        self.line_counted_to = 0

    def here(self) -> int:
        """The line of where the reader stands."""
        self.line += self.text.count("\n", self.line_counted_to, self.at)
        self.line_counted_to = self.at
        return self.line

    def fail(self, wanted: str) -> UnreadableError:
        return UnreadableError(self.here(), f"is not JSON: {wanted} is expected here")

    def peek(self) -> str:
        """The next character that is not white space, not taken; empty at the end."""
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at
        return self.text[self.at : self.at + 1]

    def string(self) -> str:
        line = self.here()
        try:
            value, self.at = _scanstring(self.text, self.at + 1, True)
        except JSONDecodeError as error:
            raise UnreadableError(line, f"is not JSON: {error.msg}") from None
        if _SURROGATE.search(value):
            raise UnreadableError(line, "holds half of a surrogate pair, which is not text")
        return value

    def value(self, place: Place) -> Any:
        first = self.peek()
        self.tree.count(self.here())
        if first == "{":
            return self.mapping(place)
        if first == "[":
            return self.list(place)
        if first == '"':
            return self.string()
        for word, constant in _CONSTANTS:
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return constant
        if found := _NUMBER.match(self.text, self.at):
            self.at = found.end()
            return float(found.group()) if found.group(1) or found.group(2) else int(found.group())
        raise self.fail("a value")

    def mapping(self, place: Place) -> dict[str, Any]:
        self.tree.enter(self.here(), place)
        self.at += 1
        result: dict[str, Any] = {}
        if self.peek() == "}":
            self.at += 1
            return result
        while True:
            if self.peek() != '"':
                raise self.fail("a key in double quotes")
            line, key = self.here(), self.string()
            below = (*place, key)
            if key in result:
                self.tree.twice(line, below)
            else:
                self.tree.lines[below] = line
            if self.peek() != ":":
                raise self.fail("a colon")
            self.at += 1
            result[key] = self.value(below)
            if self.ends("}"):
                return result

    def list(self, place: Place) -> list[Any]:
        self.tree.enter(self.here(), place)
        self.at += 1
        result: list[Any] = []
        if self.peek() == "]":
            self.at += 1
            return result
        while True:
            self.peek()
            below = (*place, len(result))
            self.tree.lines[below] = self.here()
            result.append(self.value(below))
            if self.ends("]"):
                return result

    def ends(self, bracket: str) -> bool:
        """Whether a mapping or list ends here; takes the bracket or the comma."""
        found = self.peek()
        if found not in {bracket, ","} or not found:
            raise self.fail(f"a comma or {bracket}")
        self.at += 1
        return found == bracket


def read_json(text: str) -> Tree:
    """The tree of a JSON text. Raises UnreadableError."""
    reader = _Reader(text)
    reader.peek()
    reader.tree.lines[()] = reader.here()
    reader.tree.data = reader.value(())
    if reader.peek():
        raise reader.fail("the end of the file")
    return reader.tree
