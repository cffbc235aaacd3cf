"""A run that goes on from another's last good point: what it is asked, and what it begins with."""

import json

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED, RunOptions, RunOrigin, RunState
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.errors import RunNotFoundError, RunStateInvalidError
from retinue_engine.agent.tree import Tree
from retinue_engine.agent.work import Work
from retinue_engine.history import replay
from retinue_engine.journal import MAX_EVENT_BYTES
from retinue_engine.store import FINAL_STATES, RunRow, Store
from retinue_engine.takeover import read_events

CHUNK_BYTES = MAX_EVENT_BYTES // 2
"""Messages of one event; one message may be larger."""


async def retry_request(
    store: Store, row: RunRow, request_id: str, options: RunOptions
) -> tuple[RunRequest, RunOrigin]:
    """What to ask a new run that goes on from another. Raises RunStateInvalidError."""
    if row.state not in FINAL_STATES or row.state == RUN_STATE_SUCCEEDED:
        state = RunState.Name(RunState.ValueType(row.state)).removeprefix("RUN_STATE_")
        raise RunStateInvalidError(
            f"run {row.run_id} is {state}: only a run that failed or was cancelled can be retried",
            run_id=row.run_id,
            state=state,
        )
    request = RunRequest.FromString(row.request)
    request.request_id = request_id
    request.session_id = row.session_id
    merged = request.options
    if options.generation.stop:
        del merged.generation.stop[:]
    for name in ("timeout", "input_timeout"):
        # Merged field by field, seconds of one and nanos of the other would make a third.
        if options.HasField(name):
            merged.ClearField(name)
    merged.MergeFrom(options)
    return request, RunOrigin(run_id=row.run_id, sequence=await store.last_sequence(row.run_id))


async def restore(store: Store, work: Work) -> None:
    """Begin a run with the messages of the one that it goes on from. Raises RunNotFoundError."""
    row, root = work.row, work.tree.root
    if not row.origin_run_id or root.restored_whole:
        return
    origin = await store.get_run(row.namespace, row.origin_run_id)
    if origin is None:
        raise RunNotFoundError(
            f"run {row.origin_run_id}, which this one was to go on from, was deleted",
            run_id=row.origin_run_id,
        )
    tree = await _origin_tree(store, origin, row.origin_sequence)
    messages = [json.dumps(message, ensure_ascii=False) for message in tree.root.whole_messages()]
    saved = len(messages) - tree.root.unsaved(len(messages))
    while not root.restored_whole:
        begin = end = root.restored
        size = 0
        while end < len(messages) and (end == begin or size + len(messages[end].encode()) <= CHUNK_BYTES):
            size += len(messages[end].encode())
            end += 1
        restored = event_pb2.ConversationRestored(
            messages_json=messages[begin:end],
            unsaved_messages=max(0, end - max(saved, begin)),
            complete=end == len(messages),
        )
        work.emit(row.run_id, "", conversation_restored=restored)


async def _origin_tree(store: Store, origin: RunRow, through: int) -> Tree:
    events, _ = await read_events(store, origin.run_id)
    return await replay(store, origin, [event for event in events if event.sequence <= through])
