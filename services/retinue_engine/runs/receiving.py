"""Taking in the answers that a run waits for: once each, and in its journal before they count."""

from collections.abc import Callable

from retinue.engine.v1 import event_pb2, input_pb2
from retinue_engine.agent.work import Work
from retinue_engine.convert import now_us
from retinue_engine.stores.store import Store

_EXPIRED = input_pb2.InputAnswer(expired=input_pb2.Expiry()).SerializeToString()


async def expire_inputs(store: Store, work: Work) -> bool:
    """Give up what is overdue when a run is taken up; whether there was any.

    So it is with the questions that an MCP server asked in a call that an engine's stop cut off: nobody
    listens for their answer any more.
    """
    now = now_us()
    over = [
        asked.request
        for asked in work.tree.pending()
        if asked.request.expire_time.ToMicroseconds() <= now or asked.request.question.server
    ]
    for request in over:
        # As an answer like any other: whichever is stored first counts.
        await store.answer_input(request.namespace, request.input_id, _EXPIRED)
    return bool(over)


async def receive_answers(store: Store, work: Work, listens: Callable[[], bool]) -> bool:
    """Write the answers that have come into the journal; False where the run takes none any more."""
    answered = await store.answered_inputs(work.row.run_id) if work.tree.pending() else ()
    if not listens():
        return False
    pending = {asked.request.input_id: asked.request for asked in work.tree.pending()}
    for row in answered:
        request = pending.get(row.input_id)
        if request is not None:
            answer = input_pb2.InputAnswer.FromString(row.answer or b"")
            received = event_pb2.InputReceived(input_id=row.input_id, answer=answer)
            work.emit(request.run_id, request.path, input_received=received)
    work.arrivals.tell()
    return True
