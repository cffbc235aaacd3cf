"""The newest records of a run at work, in memory, for those who watch it now."""

import asyncio
from collections import deque

from retinue_engine.stores.rows import JournalRecord

TAIL_BYTES = 256 * 1024
"""How much of a run's story stays in memory. Who is further behind reads the store."""


class Feed:
    """Takes each record once it is stored. Watchers read from it at their own pace; none can slow it."""

    def __init__(self, through: int) -> None:
        self.through = through
        """The last stored sequence."""
        self.ended = False
        """Whether no more records will come here: the run is finished, or its engine has let go of it."""
        self.finished = False
        """Whether the last record of the run is here."""
        self._tail: deque[JournalRecord] = deque()
        self._size = 0
        self._waiting: set[asyncio.Future[bool]] = set()

    def publish(self, record: JournalRecord) -> None:
        """Show a record, which is stored."""
        self._tail.append(record)
        self._size += len(record.data)
        while self._size > TAIL_BYTES and len(self._tail) > 1:
            self._size -= len(self._tail.popleft().data)
        self.through = record.last_sequence
        self._wake()

    def end(self, *, finished: bool) -> None:
        """Say that no more records will come, and whether the run is finished."""
        self.ended = True
        self.finished = finished
        self._wake()

    def after(self, sequence: int, max_bytes: int) -> list[JournalRecord] | None:
        """The records with events after a sequence, up to a size; None where the tail begins too late."""
        if sequence >= self.through:
            return []
        if not self._tail or self._tail[0].first_sequence > sequence + 1:
            return None
        found: list[JournalRecord] = []
        size = 0
        for record in self._tail:
            if record.last_sequence <= sequence:
                continue
            size += len(record.data)
            if found and size > max_bytes:
                break
            found.append(record)
        return found

    async def changed(self, timeout_s: float) -> bool:
        """Wait until there is more, or the end; False where neither came in time."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[bool] = loop.create_future()
        # A future and a timer: asyncio.timeout and a shield would cost more than what is waited for.
        timer = loop.call_later(timeout_s, _settle, waiting, False)
        self._waiting.add(waiting)
        try:
            return await waiting
        finally:
            timer.cancel()
            self._waiting.discard(waiting)

    def _wake(self) -> None:
        for waiting in self._waiting:
            _settle(waiting, True)
        self._waiting.clear()


def _settle(waiting: "asyncio.Future[bool]", came: bool) -> None:
    if not waiting.done():
        waiting.set_result(came)
