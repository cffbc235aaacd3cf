"""Events out of a stream of bytes (server-sent events, HTML standard), in linear time and bounded memory."""

from collections.abc import Callable

from retinue_mcp_host.processes.lines import HEAD_BYTES, LineSplitter

_DATA = b"data:"


class SseEvents:
    """Cuts a stream into events; of one longer than `max_bytes` only the beginning is reported."""

    def __init__(
        self, max_bytes: int, on_event: Callable[[str, bytes], None], on_oversize: Callable[[bytes], None]
    ) -> None:
        self._max = max_bytes
        self._on_event = on_event
        self._on_oversize = on_oversize
        self._lines = LineSplitter(max_bytes, self._line_too_long)
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes, and tell of the events that they complete."""
        for line in self._lines.feed(data):
            self._line(line.removesuffix(b"\r"))

    def _line(self, line: bytes) -> None:
        if not line:
            self._end()
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._size += len(value) + 1
            if self._size > self._max:
                self._skip(b"\n".join([*self._data, value])[:HEAD_BYTES])
            elif not self._skipping:
                self._data.append(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")

    def _end(self) -> None:
        kind, data, skipping = self._kind or "message", self._data, self._skipping
        self._kind, self._data, self._size, self._skipping = "", [], 0, False
        if data and not skipping:
            self._on_event(kind, b"\n".join(data))

    def _line_too_long(self, head: bytes) -> None:
        if head.startswith(_DATA):
            self._skip(head[len(_DATA) :].removeprefix(b" "))

    def _skip(self, head: bytes) -> None:
        if not self._skipping:
            self._skipping, self._data = True, []
            self._on_oversize(head)
