"""Lines out of a stream of bytes, in linear time and bounded memory."""

from collections.abc import Callable

HEAD_BYTES = 256
"""As much of a line that is too long is given to who asks for it."""


class LineSplitter:
    """Cuts a stream into lines; of one longer than `max_line_bytes` only the beginning is reported."""

    def __init__(self, max_line_bytes: int, on_oversize: Callable[[bytes], None]) -> None:
        self._max = max_line_bytes
        self._on_oversize = on_oversize
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; the lines that they complete, without their ends."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and (self._parts or self._skipping):
            lines[0] = self._finish(lines[0])
        if rest:
            self._keep(rest)
        # A read is far smaller than the largest line, so only a line of many reads can be too long.
        return lines

    def _finish(self, last: bytes) -> bytes:
        self._keep(last)
        line = b"" if self._skipping else b"".join(self._parts)
        self._parts, self._size, self._skipping = [], 0, False
        return line

    def _keep(self, part: bytes) -> None:
        if self._skipping:
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > self._max:
            head = b"".join(self._parts[:2])[:HEAD_BYTES]
            self._parts, self._skipping = [], True
            self._on_oversize(head)
