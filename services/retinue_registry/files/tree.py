"""What the text of a file holds: plain values, the line of each, and what is wrong with the text."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_VALUES = 500_000
"""Values in one file, those behind aliases counted each time."""

Place = tuple[str | int, ...]


class Fault(NamedTuple):
    """Something wrong with a file's text."""

    line: int
    """Counted from 1; 0: the file as a whole."""
    place: Place
    message: str


class UnreadableError(Exception):
    """A file's text cannot be read any further."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(slots=True)
class Tree:
    """A file's values."""

    data: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    """By place; of what stands in a mapping it is the line of its key."""
    faults: list[Fault] = field(default_factory=list)
    values: int = 0
    """How many values have been read."""

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest thing around it that has one; 0 where nothing has."""
        while place:
            if found := self.lines.get(place):
                return found
            place = place[:-1]
        return self.lines.get((), 0)

    def count(self, line: int, values: int = 1) -> None:
        """Count values as they are read. Raises UnreadableError above the limit."""
        self.values += values
        if self.values > MAX_VALUES:
            raise UnreadableError(line, f"holds more than {MAX_VALUES} values, those behind aliases counted")

    def enter(self, line: int, place: Place) -> None:
        """Begin what stands at a place. Raises UnreadableError where that is too deep."""
        if len(place) >= MAX_DEPTH:
            raise UnreadableError(line, f"is nested deeper than {MAX_DEPTH} levels")

    def twice(self, line: int, place: Place) -> None:
        """Note a key that stands a second time in its mapping."""
        first = self.lines.get(place, 0)
        self.faults.append(
            Fault(
                line, place, f"the key {place[-1]!r} stands here a second time; the first is on line {first}"
            )
        )
