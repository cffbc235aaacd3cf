"""How the MongoDB store accepts a run, step by step: an engine may stop between any two of them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from retinue.errors import ClaimLostError, SessionBusyError, StoreUnavailableError
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import run_document, run_row, session_document, session_key
from retinue_engine.stores.mongo.turns import Turns, busy_error
from retinue_engine.stores.mongo.writes import Writes
from retinue_engine.stores.rows import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    BlobRow,
    JournalRecord,
    RunRow,
    SessionTakenError,
)
from retinue_kit.mongodb import DuplicateDocumentError

_SETTLE_S = 2.0
"""How long to wait for a run that may be the same request and is on its way into the store."""

_LOOK_AGAIN_S = 0.01


class Acceptance:
    """Accepts runs."""

    def __init__(self, writes: Writes, turns: Turns) -> None:
        self._writes = writes
        self._collections = writes.collections
        self._turns = turns

    async def create_run(
        self,
        run: RunRow,
        first: JournalRecord,
        *,
        new_session: bool,
        blobs: Sequence[BlobRow],
        queue: bool,
        reject_busy: bool,
    ) -> RunRow:
        """See Store.

        A session that must be new, or free, is held for the run first: where that cannot be, nothing is left
        behind. Then come its blobs, then the run: it is accepted. A run of any other session is stored as
        QUEUED and begins when it gets its turn.
        """
        held = new_session or reject_busy
        if new_session:
            await self._open_session(run)
        elif reject_busy and (known := await self._hold_session(run)) is not None:
            return known
        run.state = RUN_STATE_RUNNING if held and not queue else RUN_STATE_QUEUED
        if blobs:
            await self._writes.store_blobs(blobs)
        try:
            await self._writes.runs.insert(run_document(run))
        except DuplicateDocumentError:
            known = await self._known(run)
            if known is None or known.run_id != run.run_id:
                await self._leave_nothing(run, held=held, blobs=bool(blobs))
                return _other(known, new_session=new_session)
        if held:
            return await self._append_first(run, first)
        return await self._take_turn(run, first, queue=queue)

    async def _append_first(self, run: RunRow, first: JournalRecord) -> RunRow:
        try:
            await self._writes.append_record(first)
        except ClaimLostError:
            return await self._of_another(run)
        return run

    async def _take_turn(self, run: RunRow, first: JournalRecord, *, queue: bool) -> RunRow:
        begun, lost = await asyncio.gather(
            self._turns.enter(run) if queue else self._turns.begin(run),
            self._writes.append_record(first),
            return_exceptions=True,
        )
        if isinstance(begun, SessionBusyError) and await self._withdraw(run):
            raise begun
        for outcome in (begun, lost):
            if isinstance(outcome, BaseException) and not isinstance(
                outcome, (ClaimLostError, SessionBusyError)
            ):
                raise outcome
        if isinstance(lost, ClaimLostError):
            return await self._of_another(run)
        if not isinstance(begun, RunRow):
            return run
        return begun if begun.writer == run.writer else replace(begun, state=RUN_STATE_QUEUED)

    async def _withdraw(self, run: RunRow) -> bool:
        """Take a queued run out again; False where somebody has taken it up."""
        queued = {"_id": run.run_id, "state": RUN_STATE_QUEUED, "claim_sequence": 0}
        with translated():
            deleted = await self._collections.runs.delete_one(queued)
            if not deleted.deleted_count:
                return False
            for each in (self._collections.journal, self._collections.blobs):
                await each.delete_many({"root_run_id": run.run_id})
        return True

    async def _of_another(self, run: RunRow) -> RunRow:
        """The run, which another engine has claimed before its first record was stored.

        RUNNING would say that it is the caller's to work on, which it is not.
        """
        with translated():
            stored = run_row(await self._collections.runs.find_one({"_id": run.run_id}))
        return stored if stored.state in FINAL_STATES else replace(stored, state=RUN_STATE_QUEUED)

    async def _open_session(self, run: RunRow) -> None:
        document = session_document(run_document(run), run.lease_us)
        try:
            await self._writes.sessions.insert(document)
        except DuplicateDocumentError:
            with translated():
                session = await self._collections.sessions.find_one({"_id": document["_id"]})
            # The same create_run again, after a broken connection, finds its own.
            if session is None or session["active_run_id"] != run.run_id:
                raise SessionTakenError from None

    async def _hold_session(self, run: RunRow) -> RunRow | None:
        """Hold a free session for the run; the run that the same request has already, if there is one."""
        if run.request_id and (known := await self._known(run)) is not None:
            return None if known.run_id == run.run_id else known
        end = time.monotonic() + _SETTLE_S
        while (holder := await self._turns.hold(run)) is not None:
            known = await self._known(run)
            if known is not None:
                return known
            may_be_same = holder.on_its_way and run.request_id
            if not may_be_same or time.monotonic() > end:
                raise busy_error(run.session_id, holder.run_id)
            await asyncio.sleep(_LOOK_AGAIN_S)
        return None

    async def _leave_nothing(self, run: RunRow, *, held: bool, blobs: bool) -> None:
        """Take back what was stored for a run that is not accepted."""
        with translated():
            if held:
                mine = {"_id": session_key(run.namespace, run.session_id), "active_run_id": run.run_id}
                sessions = self._collections.sessions
                opened = {**mine, "opened_by": run.run_id, "message_count": 0}
                if not (await sessions.delete_one(opened)).deleted_count:
                    await sessions.update_one(mine, {"$set": {"active_run_id": None}})
            if blobs:
                await self._collections.blobs.delete_many({"root_run_id": run.run_id})

    async def _known(self, run: RunRow) -> RunRow | None:
        """The run that is stored under the same request_id or run_id; None where the run_id is ruled out."""
        runs = self._collections.runs
        document = None
        with translated():
            if run.request_id:
                document = await runs.find_one({"namespace": run.namespace, "request_id": run.request_id})
            document = document or await runs.find_one({"_id": run.run_id})
        return run_row(document) if document and "ruled_out" not in document else None


def _other(known: RunRow | None, *, new_session: bool) -> RunRow:
    """What create_run gives where a run cannot be stored."""
    if known is not None:
        return known
    if new_session:
        raise SessionTakenError
    raise StoreUnavailableError("storing the run took too long: try again", store="mongodb")
