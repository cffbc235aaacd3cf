"""Taking in the answers that a run waits for: once each, and in its journal before they count."""

from retinue.engine.v1 import event_pb2, input_pb2
from retinue_engine.agent.work import Work
from retinue_engine.convert import now_us
from retinue_engine.store import Store


async def receive_answers(store: Store, work: Work, *, begins: bool = False) -> None:
    """Write the answers that have come into the journal; those that are overdue expire.

    With `begins`, questions that an MCP server asked in a call that an engine's stop cut off are dropped:
    nobody listens for their answer any more.
    """
    pending = {asked.request.input_id: asked for asked in work.tree.pending()}
    if not pending:
        return
    now = now_us()
    over = [
        asked.request
        for asked in pending.values()
        if asked.request.expire_time.ToMicroseconds() <= now or (begins and asked.request.question.server)
    ]
    expired = input_pb2.InputAnswer(expired=input_pb2.Expiry()).SerializeToString()
    for request in over:
        # As an answer like any other: whichever is stored first counts.
        await store.answer_input(request.namespace, request.input_id, expired)
    for row in await store.answered_inputs(work.row.run_id):
        asked = pending.get(row.input_id)
        if asked is None or asked.answer is not None:
            continue
        received = event_pb2.InputReceived(
            input_id=row.input_id, answer=input_pb2.InputAnswer.FromString(row.answer or b"")
        )
        work.emit(asked.request.run_id, asked.request.path, input_received=received)
    work.arrivals.tell()
