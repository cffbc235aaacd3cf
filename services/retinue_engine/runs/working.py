"""Working on a run: from where its journal stands to its last event, or until it waits for somebody."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

import structlog

from retinue.client.backoff import backoff_s
from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import (
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    RUN_STATE_WAITING,
    RunResult,
    RunState,
)
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.errors import (
    ClaimLostError,
    InternalError,
    RetinueError,
    RunExpiredError,
    StoreUnavailableError,
    reason_name,
)
from retinue_engine.agent.child_runs import finish_child
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.limits import time_limit
from retinue_engine.agent.tree import Definition, Tree
from retinue_engine.agent.work import Means, Work
from retinue_engine.convert import now_us
from retinue_engine.definition import AgentDefinition, Budget
from retinue_engine.memory import MemoryRow
from retinue_engine.outcome import cancelled, failed, fill_result, succeeded
from retinue_engine.runs.receiving import expire_inputs, receive_answers
from retinue_engine.runs.retrying import restore
from retinue_engine.runs.running import root_loop
from retinue_engine.runs.supervisor import ActiveRun
from retinue_engine.stores.rows import NOW, RunRow, Totals
from retinue_engine.stores.store import Store
from retinue_engine.story.history import definition_of, replay
from retinue_engine.story.journal import MAX_EVENT_BYTES
from retinue_engine.story.step_sessions import StepSession, open_step_session

log = structlog.get_logger()

Done = TypeVar("Done")

CUT_OUTPUT = "\n[cut: the last message has it whole]"


class Worker:
    """Works on runs of agents and workflows."""

    def __init__(self, store: Store, means: Means) -> None:
        self._store = store
        self._means = means

    async def work(self, active: ActiveRun) -> None:
        """Work on a run until it ends or waits, and write that.

        Cancelled for another reason than the run's own, write nothing.
        """
        work: Work | None = None
        try:
            definition = definition_of(active.row)
            work = await self._prepare(active, definition)
            result = await self._run(active, work, definition)
        except asyncio.CancelledError as error:
            _uncancel(active, error)
            result = cancelled(active.cancel_reason or "")
        except ClaimLostError:
            raise
        except RetinueError as error:
            result = failed(error)
        except Exception:
            log.exception("a run failed by a bug", run_id=active.row.run_id)
            result = failed(InternalError("internal error; the engine's log has the details"))
        if result is None:
            return
        if work is None:
            work = self._unprepared(active)
        await self._end(active, work, result)

    async def _prepare(self, active: ActiveRun, definition: Definition) -> Work:
        tree = await self._replay(active)
        work = self._work(active, tree)
        if definition.session_budget != Budget():
            row = active.row
            session = await _patiently(row, partial(self._store.get_session, row.namespace, row.session_id))
            work.session = session.totals if session else Totals()
        return work

    def _unprepared(self, active: ActiveRun) -> Work:
        """For a run that cannot even begin."""
        root = Conversation("", (), "")

        def no_callee(_kind: int, _name: str) -> AgentDefinition:
            raise InternalError("a run that cannot begin has no children")

        return self._work(active, Tree(active.row.run_id, root, no_callee))

    def _work(self, active: ActiveRun, tree: Tree) -> Work:
        store, row = self._store, active.row

        async def find_blob(run_id: str, blob_id: str) -> bytes | None:
            # A child's attachments are kept with the root of its tree.
            if run_id in tree:
                root_run_id = row.run_id
            else:
                run = await _patiently(row, partial(store.get_run, row.namespace, run_id))
                root_run_id = run.root_run_id if run else run_id
            blob = await _patiently(row, partial(store.get_blob, root_run_id, blob_id))
            return blob.data if blob else None

        async def find_memories(
            words: Sequence[str], labels: Mapping[str, str], limit: int
        ) -> list[MemoryRow]:
            if words:
                search = partial(store.search_memories, row.namespace, words, labels, limit, now_us())
                return await _patiently(row, search)
            return await _patiently(
                row, partial(store.list_memories, row.namespace, labels, None, limit, now_us())
            )

        async def open_session(session_id: str, definition: Definition) -> StepSession:
            return await _patiently(row, partial(open_step_session, store, row, tree, session_id, definition))

        return Work(
            row=row,
            tree=tree,
            journal=active.journal,
            means=self._means,
            paused=lambda: row.pause_reason is not None,
            find_blob=find_blob,
            find_memories=find_memories,
            open_step_session=open_session,
        )

    async def _replay(self, active: ActiveRun) -> Tree:
        row = active.row
        while True:
            try:
                return await _patiently(row, partial(replay, self._store, row, active.past))
            except asyncio.CancelledError as error:
                # Cancelled by a user before it began: its end is written all the same.
                _uncancel(active, error)

    async def _run(self, active: ActiveRun, work: Work, definition: Definition) -> RunResult | None:
        """The beginning of the result; None where the run waits now, or is paused."""
        if active.cancel_reason is not None:
            return cancelled(active.cancel_reason)
        row = work.row
        if active.expired:
            _check_queue_time(row)
        await _patiently(row, partial(restore, self._store, work))
        # Before answers are read: one that comes in between is told.
        active.receive = partial(receive_answers, self._store, work, partial(_listens, active))
        if await _patiently(row, partial(expire_inputs, self._store, work)) or row.attention_us == NOW:
            # It is taken up already: these words shall not wake it when it waits again.
            await _patiently(row, active.hear)
        await _patiently(row, active.receive)
        try:
            async with time_limit(definition.timeout_s, row.create_us):
                while True:
                    seen = work.arrivals.count
                    loop = root_loop(work, definition)
                    if await loop.run():
                        result = succeeded()
                        result.structured_json = loop.structured_json
                        return result
                    waits = bool(work.tree.pending() or work.tree.dues_us())
                    if work.paused() or (waits and work.arrivals.count == seen):
                        break
        finally:
            work.arrivals.close()
        await self._suspend(active, work)
        return None

    async def _suspend(self, active: ActiveRun, work: Work) -> None:
        """Write that the run waits or is paused. Whoever takes it up again claims it."""
        active.suspending = True
        row = work.row
        suspended = event_pb2.RunSuspended(
            state=RUN_STATE_PAUSED if work.paused() else RUN_STATE_WAITING,
            reason=row.pause_reason or "",
            input_ids=[asked.request.input_id for asked in work.tree.pending()],
        )
        work.emit(row.run_id, "", run_suspended=suspended)
        await work.journal.commit()

    async def _end(self, active: ActiveRun, work: Work, result: RunResult) -> None:
        active.ending = True
        row = work.row
        for child in list(work.tree.at_work()):
            finish_child(work, child, cancelled("the run that called it has ended"))
        fill_result(result, work.tree.root, now_us() - row.create_us)
        result.session_id = row.session_id
        _shorten(result)
        work.emit(row.run_id, "", run_finished=event_pb2.RunFinished(result=result))
        await work.journal.commit()
        self._means.toolbox.close_scope(row.namespace, row.run_id)
        # Only what went wrong is worth a line where runs are many.
        tell = log.info if result.state == RUN_STATE_FAILED else log.debug
        tell(
            "run ended",
            state=RunState.Name(result.state),
            reason=reason_name(result.error.reason) if result.HasField("error") else None,
            duration_ms=result.duration.ToMilliseconds(),
        )


async def _patiently(row: RunRow, ask: Callable[[], Awaitable[Done]]) -> Done:
    """Ask the store, however often it takes: a run does not fail because the store was away."""
    waits = backoff_s()
    while True:
        try:
            return await ask()
        except StoreUnavailableError as error:
            log.warning("the store does not answer, trying again", run_id=row.run_id, error=error.message)
            await asyncio.sleep(next(waits))


def _listens(active: ActiveRun) -> bool:
    """Whether a run can still take in a word."""
    return not (active.ending or active.suspending)


def _uncancel(active: ActiveRun, error: asyncio.CancelledError) -> None:
    """Go on to write the end of a run that a person cancelled; any other cancellation goes through."""
    task = asyncio.current_task()
    if active.cancel_reason is None or active.lost or task is None:
        raise error
    task.uncancel()


def _check_queue_time(row: RunRow) -> None:
    """Raise RunExpiredError; not where it is its timeout that is over, which is seen to below."""
    limit_us = RunRequest.FromString(row.request).queue_timeout.ToMicroseconds()
    if not limit_us or now_us() < row.create_us + limit_us:
        return
    limit_s = limit_us / 1_000_000
    raise RunExpiredError(
        f"the run waited for its turn for longer than its queue_timeout of {limit_s:g} s: start it again, or "
        "give it more time",
        queue_timeout_s=f"{limit_s:g}",
    )


def _shorten(result: RunResult) -> None:
    """Cut the output where the last event would be too long; with an error beside it there is less room."""
    size = event_pb2.RunEvent(run_finished=event_pb2.RunFinished(result=result)).ByteSize() + _EVENT_REST
    over = size - MAX_EVENT_BYTES
    if over > 0 and result.structured_json:
        # The same as the output.
        over -= len(result.structured_json.encode())
        result.structured_json = ""
    if over > 0:
        kept = max(0, len(result.output.encode()) - over - len(CUT_OUTPUT))
        result.output = result.output.encode()[:kept].decode(errors="ignore") + CUT_OUTPUT


_EVENT_REST = 128
"""What an event has beside its result, at most."""
