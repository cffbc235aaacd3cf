"""Which records may be shown: where a store has no transactions, a record comes before its rows."""

from collections.abc import Sequence

from retinue.engine.v1 import event_pb2, service_pb2
from retinue_engine.stores.rows import FINAL_STATES, JournalRecord
from retinue_engine.stores.store import Store


async def settled(store: Store, namespace: str, records: Sequence[JournalRecord]) -> Sequence[JournalRecord]:
    """Records that follow one another, without the last where what it tells of may not be stored yet.

    Who sees an event then finds the child that has begun, the request that can be answered, the end. All
    records but the last have their rows: an engine appends nothing before those of the one before are there.
    """
    if store.exclusive or not records:
        return records
    for event in service_pb2.StreamRunResponse.FromString(records[-1].data).events:
        if not await _has_row(store, namespace, event):
            return records[:-1]
    return records


async def _has_row(store: Store, namespace: str, event: event_pb2.RunEvent) -> bool:
    match event.WhichOneof("event"):
        case "child_run_started":
            return await store.get_run(namespace, event.run_id) is not None
        case "input_requested":
            input_id = event.input_requested.request.input_id
            return await store.get_input(namespace, input_id) is not None
        case "child_run_finished" | "run_finished":
            row = await store.get_run(namespace, event.run_id)
            return row is None or row.state in FINAL_STATES
        case _:
            return True
