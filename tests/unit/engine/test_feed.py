"""The feed's tail, the joining of records, and the group writer."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from retinue.engine.v1 import event_pb2, service_pb2
from retinue_engine.stores.rows import JournalRecord
from retinue_engine.stores.sqlite.group_writer import GroupWriter
from retinue_engine.story import feed as feed_module
from retinue_engine.story.feed import Feed
from retinue_engine.story.journal import encode_record
from retinue_engine.story.watching import join_records


def records(*sizes: int) -> list[JournalRecord]:
    """Records of so many events each."""
    made, sequence = [], 0
    for size in sizes:
        events = [
            event_pb2.RunEvent(run_id="r", sequence=sequence + n + 1, path=f"p{n}") for n in range(size)
        ]
        sequence += size
        made.append(encode_record("r", "w", events, sequence))
    return made


def test_records_are_joined_at_every_cut() -> None:
    made = records(1, 3, 2, 5)
    for after in range(11):
        tail = [record for record in made if record.last_sequence > after]
        for count in range(1, len(tail) + 1):
            response = service_pb2.StreamRunResponse.FromString(join_records(tail[:count], after))
            last = tail[count - 1].last_sequence
            assert [event.sequence for event in response.events] == list(range(after + 1, last + 1))
            assert response.through_sequence == last


async def test_the_tail_is_bounded_and_who_is_behind_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = records(*[3] * 100)
    monkeypatch.setattr(feed_module, "TAIL_BYTES", 10 * len(made[0].data))
    feed = Feed(0)
    for record in made:
        feed.publish(record)
    assert feed.through == 300
    assert feed.after(300, 10**6) == []
    assert feed.after(0, 10**6) is None
    for after in range(250, 300):
        found = feed.after(after, 10**6)
        if found is None:
            assert after < 280
            continue
        assert found == [record for record in made if record.last_sequence > after]
        assert len(found) <= 11
    assert feed.after(299, 1) == made[-1:]
    assert feed.after(290, 1) == made[96:97]


async def test_a_waiter_that_goes_away_disturbs_no_other() -> None:
    feed = Feed(0)
    gone, stays = (asyncio.create_task(feed.changed(5)) for _ in range(2))
    await asyncio.sleep(0)
    assert await feed.changed(0.001) is False
    gone.cancel()
    await asyncio.sleep(0)
    feed.publish(records(1)[0])
    assert await asyncio.wait_for(stays, 5) is True
    assert gone.cancelled()
    feed.end(finished=True)
    assert (feed.ended, feed.finished) == (True, True)


async def test_writes_go_in_order_together_and_each_gets_its_own_answer() -> None:
    batches: list[list[int]] = []
    go = threading.Event()

    def commit(writes: Sequence[int]) -> list[int | Exception]:
        batches.append(list(writes))
        go.wait(5)
        return [ValueError(str(each)) if each % 3 == 0 else each * 2 for each in writes]

    writer: GroupWriter[int, int] = GroupWriter(commit)
    writer.start()
    first = writer.submit(1)
    rest = [writer.submit(number) for number in range(2, 50)]
    rest[5].cancel()
    go.set()
    assert await asyncio.wait_for(first, 5) == 2
    outcomes = await asyncio.gather(*rest, return_exceptions=True)
    for number, outcome in enumerate(outcomes, 2):
        if number == 7:
            assert isinstance(outcome, asyncio.CancelledError)
        elif number % 3 == 0:
            assert isinstance(outcome, ValueError)
        else:
            assert outcome == number * 2
    assert [each for batch in batches for each in batch] == list(range(1, 50))
    assert len(batches) <= 3
    await writer.aclose()
    await writer.aclose()
    with pytest.raises(RuntimeError):
        writer.submit(1)


async def test_a_commit_that_raises_fails_its_batch_and_the_next_goes_on() -> None:
    fail = [True]

    def commit(writes: Sequence[int]) -> list[int]:
        if fail.pop() if fail else False:
            raise OSError("disk")
        return list(writes)

    writer: GroupWriter[int, int] = GroupWriter(commit)
    writer.start()
    with pytest.raises(OSError, match="disk"):
        await writer.submit(1)
    assert await writer.submit(2) == 2
    last = writer.submit(3)
    await writer.aclose()
    assert await last == 3
