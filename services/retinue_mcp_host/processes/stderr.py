"""The last lines that a server wrote on stderr, bounded in lines and bytes."""

from collections import deque
from collections.abc import Callable, Sequence

from retinue_kit.secrets import hide_values

MAX_LINES = 64
MAX_LINE_BYTES = 2048
"""Of a longer line the beginning is kept."""
MAX_BYTES = 16 * 1024

OnLines = Callable[[Sequence[str], int], None]
"""Told of whole lines, and how many before them were too many to be told."""


class StderrTail:
    """Takes bytes as they come and keeps the end of them; `secrets` are never shown.

    `on_lines` is told of lines as they are complete, secrets and all.
    """

    def __init__(self, secrets: Sequence[str] = (), on_lines: OnLines | None = None) -> None:
        self._on_lines = on_lines
        self._secrets = secrets
        self._lines: deque[bytes] = deque(maxlen=MAX_LINES)
        self._bytes = 0
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was written next."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:MAX_LINE_BYTES]
        if lines and self._on_lines is not None:
            last = [line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip() for line in lines[-MAX_LINES:]]
            self._on_lines([line for line in last if line], len(lines) - len(last))
        for line in lines[-MAX_LINES:]:
            if len(self._lines) == MAX_LINES:
                self._bytes -= len(self._lines[0])
            kept = line[:MAX_LINE_BYTES]
            self._lines.append(kept)
            self._bytes += len(kept)
        while self._bytes > MAX_BYTES:
            self._bytes -= len(self._lines.popleft())

    def text(self, max_bytes: int = MAX_BYTES) -> str:
        """The last whole lines that fit, oldest first; bytes that are not UTF-8 are replaced."""
        lines = [*self._lines, self._rest] if self._rest else list(self._lines)
        text = b"\n".join(lines).decode("utf-8", "replace").strip()
        text = hide_values(text, self._secrets)
        data = text.encode()
        if len(data) <= max_bytes:
            return text
        cut = data[-max_bytes:].decode("utf-8", "ignore")
        return (cut.partition("\n")[2] or cut).strip()
