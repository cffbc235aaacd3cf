"""A run's journal while an engine works on it: numbers events, appends them in batches, shows them."""

import asyncio
import time
from collections.abc import Callable

import structlog

from retinue.engine.v1 import event_pb2, service_pb2
from retinue.errors import ClaimLostError, PayloadTooLargeError, RetinueError, StoreUnavailableError
from retinue_engine.stores.rows import Effects, JournalRecord
from retinue_engine.stores.store import Store
from retinue_engine.story.effects import merged
from retinue_engine.story.feed import Feed

log = structlog.get_logger()

MAX_RECORD_BYTES = 1024 * 1024
"""A record is sent to watchers as it is, and a response holds at most this much."""

MAX_EVENT_BYTES = MAX_RECORD_BYTES - 1024

MAX_TEXT = 64 * 1024
"""Most characters of one text event."""

_FRAME_BYTES = 40
"""What number, time and framing add to an event after it is measured, at most."""

TURN_LINGER_S = 0.01
"""How long the beginning of a turn waits for what follows. Nothing depends on it, and a model that answers at
once saves a record."""

SOON_S = 0.5
"""How old the word may be that a run is this engine's; well below any lease that is of use."""

RETRY_FIRST_S = 0.1
RETRY_LONGEST_S = 5.0


def encode_record(
    root_run_id: str, writer: str, events: list[event_pb2.RunEvent], through: int
) -> JournalRecord:
    """The record of events, which follow one another."""
    response = service_pb2.StreamRunResponse(events=events, through_sequence=through)
    return JournalRecord(root_run_id, events[0].sequence, through, writer, response.SerializeToString())


def stamp(event: event_pb2.RunEvent) -> None:
    """Set an event's time to now."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    event.time.seconds = seconds
    event.time.nanos = nanos


class Journal:
    """Appends to one run tree's journal.

    One append is in flight at a time; what comes meanwhile goes along with the next. `on_lost` is called
    once where another claim has taken over: nothing more can be appended then.
    """

    def __init__(
        self, store: Store, feed: Feed, root_run_id: str, writer: str, head: int, on_lost: Callable[[], None]
    ) -> None:
        self._store = store
        self._feed = feed
        self._root_run_id = root_run_id
        self._writer = writer
        self._head = head
        self._on_lost = on_lost
        self._pending: list[event_pb2.RunEvent] = []
        self._pending_bytes = 0
        self._texts: list[str] = []
        self._text_length = 0
        self._text_kind = ""
        self._effects: list[tuple[int, Effects]] = []
        self._in_flight = False
        self._scheduled = False
        self._failure: RetinueError | None = None
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._retry_s = RETRY_FIRST_S

    @property
    def head(self) -> int:
        """The last number given."""
        return self._head

    def emit(self, event: event_pb2.RunEvent) -> None:
        """Number an event and append it soon. Raises PayloadTooLargeError, ClaimLostError."""
        size = event.ByteSize()
        if size > MAX_EVENT_BYTES:
            raise PayloadTooLargeError(
                f"an event of {size} bytes is more than a journal takes ({MAX_EVENT_BYTES})",
                size_bytes=size,
                limit_bytes=MAX_EVENT_BYTES,
            )
        if self._failure:
            raise self._failure
        self._seal_text()
        self._pending_bytes += size + _FRAME_BYTES
        self._head += 1
        event.sequence = self._head
        stamp(event)
        self._pending.append(event)
        if event.HasField("turn_started"):
            asyncio.get_running_loop().call_later(TURN_LINGER_S, self._flush)
        else:
            self._schedule()

    def attach(self, effects: Effects) -> None:
        """Append with the last event what follows from it."""
        self._effects.append((self._head, effects))

    def emit_text(self, run_id: str, path: str, text: str) -> None:
        """Append text that a model wrote. Texts that wait together become one event."""
        self._emit_delta(run_id, path, text, "text_delta")

    def emit_reasoning(self, run_id: str, path: str, text: str) -> None:
        """Append text that a model thought, likewise."""
        self._emit_delta(run_id, path, text, "reasoning_delta")

    def _emit_delta(self, run_id: str, path: str, text: str, kind: str) -> None:
        if self._failure or not text:
            return
        if len(text) > MAX_TEXT:
            for start in range(0, len(text), MAX_TEXT):
                self._emit_delta(run_id, path, text[start : start + MAX_TEXT], kind)
            return
        self._pending_bytes += 4 * len(text)
        if self._texts:
            last = self._pending[-1]
            self._text_length += len(text)
            same = kind == self._text_kind and last.path == path and last.run_id == run_id
            if same and self._text_length <= MAX_TEXT:
                self._texts.append(text)
                return
        self._seal_text()
        self._text_length = len(text)
        self._text_kind = kind
        event = event_pb2.RunEvent(run_id=run_id, path=path)
        self._head += 1
        event.sequence = self._head
        stamp(event)
        self._pending.append(event)
        self._texts.append(text)
        self._schedule()

    async def commit(self) -> None:
        """Wait until all that was emitted is durable. Raises ClaimLostError."""
        if self._failure:
            raise self._failure
        if self._feed.through >= self._head:
            return
        if self._pending:
            self._schedule()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((self._head, future))
        await future

    def stop(self) -> None:
        """Append nothing more: this engine lets go of the run. What is in flight still arrives."""
        if self._failure is None:
            self._failure = ClaimLostError(
                f"this engine has let go of {self._root_run_id}", run_id=self._root_run_id
            )

    async def confirm_claim(self) -> None:
        """Before something costly: raise ClaimLostError where another engine has taken over meanwhile.

        An engine that stood still learns it by an append; alone on its store it need not ask.
        """
        if not self._store.exclusive:
            await self.commit_claimed()

    async def commit_claimed(self) -> None:
        """Commit, and make sure that the run is still this engine's. Raises ClaimLostError."""
        began = time.monotonic()
        await self.commit()
        if self._store.exclusive:
            return
        # What came late may have been said long ago: this engine may have stood still meanwhile.
        while time.monotonic() - began > SOON_S:
            began = time.monotonic()
            await self._look_for_others()

    async def _look_for_others(self) -> None:
        try:
            read = self._store.read_journal(self._root_run_id, self._feed.through, MAX_RECORD_BYTES)
            others = [record for record in await read if record.writer != self._writer]
        except StoreUnavailableError:
            await asyncio.sleep(SOON_S)
            return  # so long that it is asked again
        if others:
            self._fail(ClaimLostError("another engine has taken it over", run_id=self._root_run_id))
        if self._failure:
            raise self._failure

    def _seal_text(self) -> None:
        if self._texts:
            getattr(self._pending[-1], self._text_kind).text = "".join(self._texts)
            self._texts.clear()

    def _schedule(self) -> None:
        if not self._in_flight and not self._scheduled:
            self._scheduled = True
            # What is emitted in the same pass of the loop goes along.
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self._in_flight or not self._pending or self._failure:
            return
        self._seal_text()
        events, self._pending = self._pending, []
        if self._pending_bytes > MAX_EVENT_BYTES:
            count, size = 0, 0
            for event in events:
                size += event.ByteSize() + _FRAME_BYTES
                if count and size > MAX_EVENT_BYTES:
                    break
                count += 1
            events, self._pending = events[:count], events[count:]
        self._pending_bytes = sum(event.ByteSize() + _FRAME_BYTES for event in self._pending)
        record = encode_record(self._root_run_id, self._writer, events, events[-1].sequence)
        self._append(record, self._take_effects(record.last_sequence) if self._effects else None)

    def _take_effects(self, through: int) -> Effects | None:
        taken = [effects for sequence, effects in self._effects if sequence <= through]
        self._effects = self._effects[len(taken) :]
        return merged(taken)

    def _append(self, record: JournalRecord, effects: Effects | None) -> None:
        self._in_flight = True
        self._store.append(record, effects).add_done_callback(
            lambda done: self._appended(record, effects, done)
        )

    def _appended(self, record: JournalRecord, effects: Effects | None, done: "asyncio.Future[None]") -> None:
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or isinstance(error, StoreUnavailableError):
            # Nothing is shown that is not stored, and nothing is given up: the store is asked again.
            log.warning("append failed, trying again", run_id=self._root_run_id, error=str(error))
            asyncio.get_running_loop().call_later(self._retry_s, self._append, record, effects)
            self._retry_s = min(self._retry_s * 2, RETRY_LONGEST_S)
            return
        self._in_flight = False
        if error is not None:
            self._fail(error)
            return
        self._retry_s = RETRY_FIRST_S
        self._feed.publish(record)
        while self._waiters and self._waiters[0][0] <= record.last_sequence:
            _, waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
        self._flush()

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, ClaimLostError):
            log.error("append failed by a bug", run_id=self._root_run_id, exc_info=error)
        self._failure = ClaimLostError(
            f"cannot append to {self._root_run_id} any more: {error}", run_id=self._root_run_id
        )
        for _, waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(self._failure)
        self._waiters.clear()
        self._on_lost()
