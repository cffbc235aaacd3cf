"""A run that goes on from another's last good point: what it is asked, and what it begins with."""

import json

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED, RunOptions, RunOrigin, RunState
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.errors import RunNotFoundError, RunStateInvalidError
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.tree import Standing
from retinue_engine.agent.work import Work
from retinue_engine.custom.progress import CustomProgress
from retinue_engine.custom.restoring import restore_calls
from retinue_engine.runs.takeover import read_events
from retinue_engine.stores.rows import FINAL_STATES, RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.history import replay
from retinue_engine.story.journal import MAX_EVENT_BYTES
from retinue_engine.workflow.progress import Progress

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
    # Merged field by field, seconds of one and nanos of the other would make a third.
    for name in ("timeout", "input_timeout"):
        if options.HasField(name):
            merged.ClearField(name)
    for given, known in ((options.budget, merged.budget), (options.session_budget, merged.session_budget)):
        if given.HasField("max_duration"):
            known.ClearField("max_duration")
    merged.MergeFrom(options)
    return request, RunOrigin(run_id=row.run_id, sequence=await store.last_sequence(row.run_id))


async def restore(store: Store, work: Work) -> None:
    """Begin a run with what the one that it goes on from had done. Raises RunNotFoundError."""
    row, root = work.row, work.tree.root
    if not row.origin_run_id or root.restored_whole:
        return
    origin = await _origin(store, row)
    if isinstance(root, CustomProgress):
        restore_calls(work, root, origin)
        return
    if isinstance(root, Progress):
        restore_steps(work, origin)
        return
    if not isinstance(root, Conversation) or not isinstance(origin, Conversation):
        raise TypeError(f"{row.run_id} goes on from a run of another kind")
    messages = [json.dumps(message, ensure_ascii=False) for message in origin.whole_messages()]
    saved = len(messages) - origin.unsaved(len(messages))
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
            question=max(0, origin.question - origin.first),
        )
        work.emit(row.run_id, "", conversation_restored=restored)


async def _origin(store: Store, row: RunRow) -> Standing:
    """Where the run stood that another goes on from. Raises RunNotFoundError."""
    while True:
        origin = await store.get_run(row.namespace, row.origin_run_id)
        if origin is None:
            raise RunNotFoundError(
                f"run {row.origin_run_id}, which this one was to go on from, was deleted",
                run_id=row.origin_run_id,
            )
        events, _ = await read_events(store, origin.run_id)
        tree = await replay(store, origin, [each for each in events if each.sequence <= row.origin_sequence])
        if not origin.origin_run_id or tree.root.restored_whole:
            return tree.root
        # It ended before it had its own beginning.
        row = origin


def restore_steps(work: Work, origin: Standing) -> None:
    """Begin a workflow with the steps that the run had done from which it goes on."""
    if not isinstance(origin, Progress):
        raise TypeError(f"{work.row.run_id} goes on from a run of another kind")
    root = work.tree.root
    done = [step for step in origin.steps.values() if step.state in {"completed", "skipped"}]
    for step in done:
        if isinstance(root, Progress) and step.name in root.steps:
            continue
        path = f"step:{step.name}"
        if step.state == "skipped":
            skipped = event_pb2.StepSkipped(step=step.name, reason="it was left out before")
            work.emit(work.row.run_id, path, step_skipped=skipped)
            continue
        completed = event_pb2.StepCompleted(
            step=step.name,
            output_json=json.dumps(step.output, ensure_ascii=False),
            attempts=step.attempt,
            fallback=step.fallback,
            restored=True,
            state_json=json.dumps(step.changes, ensure_ascii=False) if step.changes else "",
        )
        if step.route:
            taken = event_pb2.RouteTaken(step=step.name, route=step.route, reason="it was taken before")
            work.emit(work.row.run_id, path, route_taken=taken)
        work.emit(work.row.run_id, path, step_completed=completed)
