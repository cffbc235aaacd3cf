"""What a run and its worker have for each other: the run's side, the stream's side, the process's side."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from retinue.engine.v1.event_pb2 import OutputStream
from retinue.engine.v1.worker_pb2 import WorkerBegin, WorkRequest, WorkResponse
from retinue_engine.custom.program import Launch

MAX_INBOX = 256
"""Messages of a worker that wait for its run; it is read no further then."""
MAX_KEPT_BYTES = 256 * 1024
"""Of what one worker writes on stdout and stderr."""
MAX_TEXT = 4 * 1024
"""Characters of one event."""


class Written(NamedTuple):
    """What a worker wrote."""

    stream: OutputStream.ValueType
    text: str


class Link:
    """Made for one worker of one run; good for one stream."""

    def __init__(self, begin: WorkerBegin) -> None:
        self.begin = begin
        """What the worker is told first."""
        self.connected = False
        """Whether the worker's stream has come."""
        self.lost = False
        """Whether the stream has ended."""
        self.ending = ""
        """How the process ended, for a sentence; empty before."""
        self.dropped_bytes = 0
        self.answers: asyncio.Queue[WorkResponse | None] = asyncio.Queue()
        """For the worker: as many as it has calls under way; None ends the stream."""
        self._inbox: asyncio.Queue[WorkRequest] = asyncio.Queue(MAX_INBOX)
        self._written: deque[Written] = deque()
        self._unfinished: dict[OutputStream.ValueType, str] = {}
        """The line that it writes, by stream."""
        self._kept_bytes = 0
        self.on_change: Callable[[], None] = lambda: None
        """Called when there is something for the run."""

    # The run's side.

    def take(self) -> WorkRequest | None:
        """The worker's next message; None where there is none now."""
        try:
            return self._inbox.get_nowait()
        except asyncio.QueueEmpty:
            return None

    def take_written(self) -> Written | None:
        """What it wrote next; None where there is nothing now."""
        return self._written.popleft() if self._written else None

    def end_lines(self) -> None:
        """It writes nothing more: what has no end of line is whole as it is."""
        for stream, text in self._unfinished.items():
            self._keep(stream, text)
        self._unfinished.clear()

    # The stream's side.

    def connect(self) -> None:
        """The stream has come."""
        self.connected = True
        self.on_change()

    async def receive(self, request: WorkRequest) -> None:
        """Take a message; waits while there are too many."""
        await self._inbox.put(request)
        self.on_change()

    def disconnect(self) -> None:
        """The stream has ended."""
        self.lost = True
        self.on_change()

    # The process's side.

    def wrote(self, stream: OutputStream.ValueType, text: str) -> None:
        """Take what it wrote, as far as there is room."""
        data = text.encode()
        room = MAX_KEPT_BYTES - self._kept_bytes
        if len(data) > room:
            self.dropped_bytes += len(data) - max(room, 0)
            text = data[: max(room, 0)].decode(errors="ignore")
        if not text:
            return
        self._kept_bytes += min(len(data), room)
        # One line is often several writes.
        text = self._unfinished.pop(stream, "") + text
        whole, newline, rest = text.rpartition("\n")
        if len(rest) > MAX_TEXT:
            whole, newline, rest = text, "", ""
        if rest:
            self._unfinished[stream] = rest
        if whole or newline:
            self._keep(stream, whole + newline)

    def _keep(self, stream: OutputStream.ValueType, text: str) -> None:
        last = self._written[-1] if self._written else None
        if last and last.stream == stream and len(last.text) + len(text) <= MAX_TEXT:
            self._written[-1] = Written(stream, last.text + text)
        else:
            parts = (text[at : at + MAX_TEXT] for at in range(0, len(text), MAX_TEXT))
            self._written.extend(Written(stream, part) for part in parts)
        self.on_change()

    def exited(self, ending: str) -> None:
        """The process has ended."""
        self.ending = ending
        self.on_change()


class Worker(Protocol):
    """One worker of a run."""

    link: Link

    async def finish(self) -> None:
        """End its stream, and give it a moment to end by itself and to say its last words."""


OpenWorker = Callable[[Launch, WorkerBegin], AbstractAsyncContextManager[Worker]]
"""Starts a worker for a run; leaving kills it with all that it started. Raises WorkerNotConnectedError."""
