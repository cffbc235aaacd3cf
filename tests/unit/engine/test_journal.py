"""The journal: events in batches, one append in flight, nothing shown before it is stored."""

import asyncio
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.errors import ClaimLostError, PayloadTooLargeError, StoreUnavailableError
from retinue_engine.stores.rows import Effects, JournalRecord, RunOutcome
from retinue_engine.story import journal as journal_module
from retinue_engine.story.feed import Feed
from retinue_engine.story.journal import MAX_EVENT_BYTES, MAX_RECORD_BYTES, MAX_TEXT, Journal
from tests.suite import until


class Appends:
    """A store of appends that end when the test says so."""

    def __init__(self) -> None:
        self.records: list[JournalRecord] = []
        self.effects: list[Effects | None] = []
        self.futures: list[asyncio.Future[None]] = []

    def append(self, record: JournalRecord, effects: Effects | None = None) -> "asyncio.Future[None]":
        self.records.append(record)
        self.effects.append(effects)
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def events(self) -> list[event_pb2.RunEvent]:
        return [
            event
            for record in self.records
            for event in service_pb2.StreamRunResponse.FromString(record.data).events
        ]


class Bench:
    """A journal over appends that the test ends."""

    def __init__(self) -> None:
        self.store = Appends()
        self.feed = Feed(0)
        self.lost = 0
        store: Any = self.store
        self.journal = Journal(store, self.feed, "r", "w", 0, self._lose)

    def _lose(self) -> None:
        self.lost += 1

    def emit(self, text: str = "") -> None:
        completed = event_pb2.MessageCompleted(text=text)
        self.journal.emit(event_pb2.RunEvent(run_id="r", message_completed=completed))

    def begin_turn(self) -> None:
        self.journal.emit(event_pb2.RunEvent(run_id="r", turn_started=event_pb2.TurnStarted(turn=1)))

    async def turn(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def end_all(self) -> None:
        await self.turn()
        while pending := [future for future in self.store.futures if not future.done()]:
            pending[0].set_result(None)
            await self.turn()


async def test_what_is_emitted_in_one_pass_is_one_record() -> None:
    bench = Bench()
    for _ in range(5):
        bench.emit()
    await bench.turn()
    (record,) = bench.store.records
    assert (record.first_sequence, record.last_sequence, record.writer) == (1, 5, "w")
    assert bench.feed.through == 0
    bench.store.futures[0].set_result(None)
    await bench.turn()
    assert bench.feed.through == 5


async def test_one_append_is_in_flight_and_what_comes_meanwhile_goes_along_with_the_next() -> None:
    bench = Bench()
    bench.emit()
    await bench.turn()
    for _ in range(10):
        bench.emit()
        await bench.turn()
    assert len(bench.store.records) == 1
    bench.store.futures[0].set_result(None)
    await bench.turn()
    assert [(each.first_sequence, each.last_sequence) for each in bench.store.records] == [(1, 1), (2, 11)]


async def test_the_beginning_of_a_turn_goes_with_what_follows_at_once() -> None:
    bench = Bench()
    bench.begin_turn()
    await bench.turn()
    assert bench.store.records == []
    bench.emit()
    await bench.turn()
    assert [(each.first_sequence, each.last_sequence) for each in bench.store.records] == [(1, 2)]


async def test_the_beginning_of_a_turn_is_stored_soon_where_nothing_follows() -> None:
    bench = Bench()
    bench.begin_turn()
    await until(lambda: bench.store.records, "it is appended")
    assert [event.turn_started.turn for event in bench.store.events()] == [1]


async def test_a_commit_does_not_wait_for_what_may_follow_the_beginning_of_a_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "TURN_LINGER_S", 3600)
    bench = Bench()
    bench.begin_turn()
    committing = asyncio.ensure_future(bench.journal.commit())
    await bench.end_all()
    await committing
    assert bench.feed.through == 1


async def test_texts_that_wait_together_are_one_event_and_others_part_them() -> None:
    bench = Bench()
    for text in ("a", "b"):
        bench.journal.emit_text("r", "turn:1", text)
    bench.emit()
    bench.journal.emit_text("r", "turn:1", "c")
    bench.journal.emit_text("r", "turn:2", "d")
    bench.journal.emit_text("r", "turn:2", "")
    await bench.turn()
    bench.journal.emit_text("r", "turn:2", "e")
    await bench.end_all()
    events = bench.store.events()
    assert [event.text_delta.text for event in events] == ["ab", "", "c", "d", "e"]
    assert [event.path for event in events] == ["turn:1", "", "turn:1", "turn:2", "turn:2"]
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [MAX_TEXT, MAX_TEXT + 1, 3 * MAX_TEXT + 5])
async def test_a_long_text_is_split_and_nothing_of_it_lost(size: int) -> None:
    bench = Bench()
    text = "".join(chr(0x1F600 + n % 50) for n in range(size))
    bench.journal.emit_text("r", "turn:1", text)
    bench.journal.emit_text("r", "turn:1", "end")
    await bench.end_all()
    texts = [event.text_delta.text for event in bench.store.events()]
    assert "".join(texts) == text + "end"
    assert max(map(len, texts)) <= MAX_TEXT
    assert all(len(record.data) <= MAX_RECORD_BYTES for record in bench.store.records)


async def test_no_record_is_larger_than_a_response_may_be() -> None:
    bench = Bench()
    for size in (1, 500_000, 600_000, 10, MAX_EVENT_BYTES - 20, 10, 400_000, 400_000, 400_000):
        bench.emit("x" * size)
    assert bench.journal.head == 9
    await bench.end_all()
    assert all(len(record.data) <= MAX_RECORD_BYTES for record in bench.store.records)
    assert [event.sequence for event in bench.store.events()] == list(range(1, 10))
    with pytest.raises(PayloadTooLargeError):
        bench.emit("x" * MAX_EVENT_BYTES)
    assert bench.journal.head == 9


async def test_effects_go_with_the_record_of_their_event() -> None:
    bench = Bench()
    outcome = RunOutcome("default", "r", "s", run_pb2.RUN_STATE_SUCCEEDED, 1, b"", [])
    bench.emit("x" * 900_000)
    bench.journal.attach(Effects(received=["a"]))
    bench.journal.attach(Effects(received=["b"]))
    bench.journal.emit(event_pb2.RunEvent(run_id="r", path="x" * 200_000))
    bench.journal.attach(Effects(outcomes=[outcome]))
    await bench.end_all()
    first, last = bench.store.effects
    assert first is not None
    assert (first.received, first.outcomes) == (["a", "b"], [])
    assert last == Effects(outcomes=[outcome])


async def test_a_commit_waits_for_what_was_emitted_before_it() -> None:
    bench = Bench()
    await bench.journal.commit()
    bench.emit()
    first = asyncio.create_task(bench.journal.commit())
    await bench.turn()
    bench.emit()
    second = asyncio.create_task(bench.journal.commit())
    await bench.turn()
    bench.store.futures[0].set_result(None)
    await bench.turn()
    assert (first.done(), second.done()) == (True, False)
    bench.store.futures[1].set_result(None)
    await asyncio.wait_for(second, 5)


async def test_a_store_that_fails_is_asked_again_with_the_same_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_module, "RETRY_FIRST_S", 0.001)
    bench = Bench()
    bench.emit()
    commit = asyncio.create_task(bench.journal.commit())
    await bench.turn()
    for tries in range(1, 4):
        bench.store.futures[-1].set_exception(StoreUnavailableError("no"))
        await until(lambda made=tries: len(bench.store.futures) > made, "it is tried again")
        bench.emit()
    assert bench.feed.through == 0
    assert bench.store.records[:4] == [bench.store.records[0]] * 4
    await bench.end_all()
    await asyncio.wait_for(commit, 5)
    assert bench.feed.through == 4
    assert bench.lost == 0


@pytest.mark.parametrize("error", [ClaimLostError("other"), KeyError("bug")])
async def test_a_lost_claim_is_told_once_and_nothing_is_appended_any_more(error: Exception) -> None:
    bench = Bench()
    bench.emit()
    commits = [asyncio.create_task(bench.journal.commit()) for _ in range(3)]
    await bench.turn()
    bench.emit()
    bench.store.futures[0].set_exception(error)
    await bench.turn()
    for commit in commits:
        with pytest.raises(ClaimLostError):
            await commit
    with pytest.raises(ClaimLostError):
        bench.emit()
    with pytest.raises(ClaimLostError):
        await bench.journal.commit()
    bench.journal.emit_text("r", "turn:1", "x")
    await bench.turn()
    assert (bench.lost, len(bench.store.records), bench.feed.through) == (1, 1, 0)


async def test_a_journal_that_is_stopped_lets_what_is_in_flight_arrive_and_sends_no_more() -> None:
    bench = Bench()
    bench.emit()
    await bench.turn()
    bench.emit()
    bench.journal.stop()
    bench.store.futures[0].set_result(None)
    await bench.turn()
    assert (bench.feed.through, len(bench.store.records)) == (1, 1)
    with pytest.raises(ClaimLostError):
        bench.emit()
