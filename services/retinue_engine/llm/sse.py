"""Server-sent events over bytes: cuts a stream into the data of its events, wherever the reads cut it.

The rules are those of the WHATWG HTML standard, section 9.2; fields other than `data` say nothing here.
"""

from retinue_engine.llm.failures import not_in_protocol
from retinue_engine.llm.model import Endpoint

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The most bytes of one event; a server that sends more without an end is not answering."""

_BOM = b"\xef\xbb\xbf"


class EventSplitter:
    """Takes the bytes of a stream as they are read; gives the data of each event that is complete."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._tail: list[bytes] = []  # parts of a line whose end has not come; joined once, when it has
        self._data: list[bytes] = []  # data lines of an event whose end has not come
        self._tail_bytes = 0
        self._data_bytes = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, read: bytes) -> list[bytes]:
        """The data of the events that this read completes; raises LlmInvalidResponseError past the limit."""
        if self._after_cr and read.startswith(b"\n"):
            read = read[1:]
            self._after_cr = False
        if b"\r" in read:
            self._after_cr = read.endswith(b"\r")
            read = read.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        elif read:
            self._after_cr = False
        lines = read.split(b"\n")
        tail = lines.pop()
        events: list[bytes] = []
        if lines:
            if self._tail:
                lines[0] = b"".join([*self._tail, lines[0]])
                self._tail.clear()
                self._tail_bytes = 0
            if self._at_start:
                self._at_start = False
                lines[0] = lines[0].removeprefix(_BOM)
            self._take(lines, events)
        if tail:
            self._tail.append(tail)
            self._tail_bytes += len(tail)
        if self._tail_bytes + self._data_bytes > MAX_EVENT_BYTES:
            raise not_in_protocol(self._endpoint, f"an event has more than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, lines: list[bytes], events: list[bytes]) -> None:
        data, held = self._data, self._data_bytes
        for line in lines:
            if not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
                    held = 0
            elif line.startswith(b"data:"):
                data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                held += len(line)
            elif line == b"data":
                data.append(b"")
                held += len(line)
        self._data_bytes = held
