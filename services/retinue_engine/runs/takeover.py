"""Taking a run over: read its journal, claim it by an append, or finish what the journal says is finished."""

from dataclasses import replace
from typing import NamedTuple

from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.convert import run_started
from retinue_engine.stores.rows import JournalRecord, RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.effects import effects_of, merged
from retinue_engine.story.history import replay
from retinue_engine.story.journal import MAX_RECORD_BYTES, encode_record, stamp


class Takeover(NamedTuple):
    """A run that is claimed."""

    record: JournalRecord
    """The claim."""
    past: list[event_pb2.RunEvent]
    """Everything before it, and itself."""


async def read_events(store: Store, run_id: str) -> tuple[list[event_pb2.RunEvent], JournalRecord | None]:
    """All events of a root run, and its last record; None where it has none."""
    events: list[event_pb2.RunEvent] = []
    last: JournalRecord | None = None
    while records := await store.read_journal(run_id, last.last_sequence if last else 0, MAX_RECORD_BYTES):
        for record in records:
            events.extend(service_pb2.StreamRunResponse.FromString(record.data).events)
        last = records[-1]
    return events, last


async def take_over(store: Store, row: RunRow, writer: str, lease_us: int) -> Takeover | None:
    """Claim a root run for a writer, which is set in the row.

    None where its journal has ended already: then what follows from that is written. Raises ClaimLostError
    where another engine was quicker.
    """
    events, last = await read_events(store, row.run_id)
    ended = bool(events) and events[-1].HasField("run_finished")
    if last is not None and (ended or not store.exclusive):
        # The engine may have stopped between its last append and what follows from it.
        await _complete(store, row, events, last)
    if ended:
        return None
    row.writer = writer
    if last is None:
        # Accepted, and the engine stopped before the first record.
        request = RunRequest.FromString(row.request)
        event = run_started(row, request, ResolveComponentResponse.FromString(row.definition))
    else:
        event = event_pb2.RunEvent(
            run_id=row.run_id,
            sequence=events[-1].sequence + 1,
            run_claimed=event_pb2.RunClaimed(engine_id=writer),
        )
        stamp(event)
    record = encode_record(row.run_id, writer, [event], event.sequence)
    await store.claim(row, record, lease_us)
    row.state = run_pb2.RUN_STATE_RUNNING
    row.attention_us = None
    return Takeover(record, [*events, event])


async def _complete(store: Store, row: RunRow, events: list[event_pb2.RunEvent], last: JournalRecord) -> None:
    """Write what follows from a journal's last record; where it is written, this changes nothing."""
    tree = await replay(store, row, events)
    holder = replace(row, writer=last.writer)
    tail = (event for event in events if event.sequence >= last.first_sequence)
    effects = merged(effects_of(holder, tree, event) for event in tail)
    if effects is not None:
        await store.append(last, effects)
