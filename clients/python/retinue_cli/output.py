"""What a command prints: lines and tables for people, or JSON for programs; never both."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from retinue_cli.wording import clean

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import Console

_UNLIMITED_WIDTH = 100_000
"""Into a file or a pipe nothing is cut or wrapped."""

_PLAIN = str.maketrans(
    {"✓": "+", "✗": "x", "■": "#", "→": "->", "←": "<-", "·": "-", "…": "...", "─": "-", "│": "|"}
)
"""What stands for our symbols where the terminal has no Unicode."""


class Output:
    """Prints on stdout. With `as_json` only JSON gets there, one object a line."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console: Console | None = None
        self._instead = {} if _has_symbols() else _PLAIN

    @property
    def console(self) -> "Console":
        """Rich's console; colours only on a terminal and without NO_COLOR."""
        if self._console is None:
            from rich.console import Console

            width = None if sys.stdout.isatty() else _UNLIMITED_WIDTH
            self._console = Console(
                file=sys.stdout, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False
            )
        return self._console

    def _shown(self, text: str) -> str:
        """The text without what could steer the terminal, in characters that it has."""
        return clean(text).translate(self._instead)

    @property
    def animated(self) -> bool:
        """Whether a line may be written and taken back."""
        return not self.as_json and self.console.is_terminal and not self.console.is_dumb_terminal

    def object(self, value: "Mapping[str, Any] | Message") -> None:
        """Print one JSON object on a line; a protobuf message as protojson with the protos' field names."""
        sys.stdout.write(json_line(value))
        sys.stdout.flush()

    def line(self, text: str = "", *, style: str = "") -> None:
        """Print a line for people; nothing under --json."""
        if not self.as_json:
            self.console.print(self._shown(text), style=style or None)

    def parts(self, *parts: tuple[str, str], indent: int = 0) -> None:
        """Print a line of `(text, style)` for people; what wraps is indented like its beginning."""
        if self.as_json:
            return
        from rich.padding import Padding
        from rich.text import Text

        text = Text.assemble(*((self._shown(text), style) for text, style in parts))
        self.console.print(Padding(text, (0, 0, 0, indent), expand=False) if indent else text)

    def raw(self, text: str, *, style: str = "") -> None:
        """Write text for people as it stands, without a newline of its own."""
        if not self.as_json and text:
            self.console.out(self._shown(text), end="", style=style or None, highlight=False)

    def erase_line(self) -> None:
        """Take back what stands on the cursor's line. Only where `animated`."""
        sys.stdout.write("\r\x1b[2K")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Print a line for people on stderr, also under --json."""
        sys.stderr.write(self._shown(text) + "\n")
        sys.stderr.flush()

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]], *, flexible: int = -1) -> None:
        """Print a table for people; the column at `flexible` gives way where the terminal is narrow."""
        if self.as_json:
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        flexible %= len(headers)
        for place, header in enumerate(headers):
            table.add_column(
                header, no_wrap=True, overflow="ellipsis", min_width=None if place == flexible else 0
            )
        for row in rows:
            table.add_row(*(self._shown(cell).replace("\n", " ") for cell in row))
        self.console.print(table)


class LastingOutput(Output):
    """Goes on in silence where nobody reads any more.

    A closed terminal or pipe must not keep services from being stopped.
    """

    def object(self, value: "Mapping[str, Any] | Message") -> None:
        with _forgiving():
            super().object(value)

    def line(self, text: str = "", *, style: str = "") -> None:
        with _forgiving():
            super().line(text, style=style)

    def parts(self, *parts: tuple[str, str], indent: int = 0) -> None:
        with _forgiving():
            super().parts(*parts, indent=indent)


@contextmanager
def _forgiving() -> Iterator[None]:
    try:
        yield
    except (OSError, SystemExit):  # SystemExit is Rich's answer to a broken pipe
        silence()


def silence() -> None:
    """Send stdout nowhere from here on, what is waiting to be written included."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def json_line(value: "Mapping[str, Any] | Message") -> str:
    """A line with one JSON object; of a protobuf message, as `to_json`."""
    return json.dumps(value if isinstance(value, Mapping) else to_json(value), ensure_ascii=False) + "\n"


def to_json(message: "Message") -> dict[str, Any]:
    """A protobuf message as protojson, with the field names of the protos."""
    from google.protobuf.json_format import MessageToDict

    data: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return data


def _has_symbols() -> bool:
    try:
        "✓→·".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
