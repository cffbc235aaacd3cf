"""Watching: a run's story from any number on, from memory where it is there and else from the store."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from retinue.engine.v1 import service_pb2
from retinue.errors import SequenceOutOfRangeError
from retinue_engine.runs.settled import settled
from retinue_engine.stores.rows import FINAL_STATES, JournalRecord
from retinue_engine.stores.store import Store
from retinue_engine.story.feed import Feed
from retinue_engine.story.journal import MAX_RECORD_BYTES
from retinue_engine.story.remote_feeds import RemoteFeeds


class Feeds(Protocol):
    """Where the feeds of runs at work are found."""

    def feed_of(self, root_run_id: str) -> Feed | None:
        """The feed of a run that this engine works on; None for every other."""


def join_records(records: Sequence[JournalRecord], after: int) -> bytes:
    """One serialized response with the events after a sequence.

    Serialized messages one after another are a message with all their events. Only the first record may hold
    events that the watcher has already: it alone is taken apart.
    """
    first = records[0]
    if first.first_sequence > after:
        return b"".join([record.data for record in records])
    response = service_pb2.StreamRunResponse.FromString(first.data)
    kept = [event for event in response.events if event.sequence > after]
    rest = service_pb2.StreamRunResponse(events=kept, through_sequence=response.through_sequence)
    return b"".join([rest.SerializeToString(), *(record.data for record in records[1:])])


def heartbeat(after: int) -> bytes:
    """A response without events. It says how far the story was told: who goes on from it misses nothing."""
    return service_pb2.StreamRunResponse(through_sequence=after).SerializeToString()


async def watch(
    store: Store,
    feeds: Feeds,
    remote: RemoteFeeds,
    namespace: str,
    run_id: str,
    after: int,
    heartbeat_s: float,
) -> AsyncIterator[bytes]:
    """Yield serialized responses with every event after a sequence, once and in order, to the last.

    `run_id` is a root. Raises SequenceOutOfRangeError where `after` lies beyond the last event.
    """
    feed = feeds.feed_of(run_id)
    joined: Feed | None = None
    await _check_place(store, feed, run_id, after)
    try:
        while True:
            records: Sequence[JournalRecord] | None
            records = feed.after(after, MAX_RECORD_BYTES) if feed else None
            finished = feed is not None and feed.finished
            if records is None:
                records, finished = await _read(store, namespace, run_id, after)
            if records:
                yield join_records(records, after)
                after = records[-1].last_sequence
                continue
            if finished:
                return
            local = feeds.feed_of(run_id)
            if local is not None:
                feed = local
            elif feed is None or feed.ended:
                if joined is not None:
                    remote.leave(run_id, joined)
                feed = joined = remote.join(namespace, run_id, after)
            if not await feed.changed(heartbeat_s):
                yield heartbeat(after)
    finally:
        if joined is not None:
            remote.leave(run_id, joined)


async def _read(
    store: Store, namespace: str, run_id: str, after: int
) -> tuple[Sequence[JournalRecord], bool]:
    """The records after a sequence, and whether no more will come than are stored."""
    # Asked before the journal is read: what is final then has its whole journal in the store.
    row = await store.get_run(namespace, run_id)
    finished = row is None or row.state in FINAL_STATES
    records = await store.read_journal(run_id, after, MAX_RECORD_BYTES)
    return records if finished else await settled(store, namespace, records), finished


async def _check_place(store: Store, feed: Feed | None, run_id: str, after: int) -> None:
    if after == 0:
        return
    # A feed may be behind: another engine may have taken the run over, and nobody has noticed here.
    through = feed.through if feed and after <= feed.through else await store.last_sequence(run_id)
    if after > through:
        raise SequenceOutOfRangeError(
            f"run {run_id} has {through} events so far: watch after {through} or less",
            after_sequence=after,
            last_sequence=through,
        )
