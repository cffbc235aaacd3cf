"""What the MongoDB store writes, step by step: an engine may stop between any two of them."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from retinue.errors import ClaimLostError, InternalError, StoreUnavailableError
from retinue_engine.store import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    JournalRecord,
    RunOutcome,
    RunRow,
    SessionTakenError,
)
from retinue_engine.store_mongo_documents import (
    NOT_FINAL,
    Collections,
    Document,
    record_document,
    run_document,
    run_row,
    session_document,
    session_key,
)
from retinue_engine.store_mongo_errors import DuplicateDocumentError, translated
from retinue_engine.store_mongo_group import GroupWrites
from retinue_engine.store_mongo_turns import Turns


class Writes:
    """Accepts runs, appends to journals, ends runs."""

    def __init__(self, collections: Collections, turns: Turns) -> None:
        self._collections = collections
        self._turns = turns
        self._runs = GroupWrites(collections.runs)
        self._journal = GroupWrites(collections.journal, self._judge_record)
        self._sessions = GroupWrites(collections.sessions)
        self._messages = GroupWrites(collections.messages, self._judge_message)
        self.groups = (self._runs, self._journal, self._sessions, self._messages)
        """To be run, and closed, by who made this."""

    async def create_run(self, run: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        """See Store.

        A new session is stored first, held by the run: where it exists, nothing is left behind. Then the run:
        it is accepted. A run of an existing session is stored as QUEUED and begins when it gets its turn.
        """
        if new_session:
            await self._open_session(run)
        run.state = RUN_STATE_RUNNING if new_session else RUN_STATE_QUEUED
        try:
            await self._runs.insert(run_document(run))
        except DuplicateDocumentError:
            known = await self._known(run)
            if known is None or known.run_id != run.run_id:
                if new_session:
                    await self._drop_session(run)
                return _other(known, new_session=new_session)
        if new_session:
            try:
                await self.append_record(first)
            except ClaimLostError:
                return await self._of_another(run)
            return run
        return await self._take_turn(run, first)

    async def _take_turn(self, run: RunRow, first: JournalRecord) -> RunRow:
        begun, lost = await asyncio.gather(
            self._turns.begin_next(run.namespace, run.session_id, run.lease_us, only=run.run_id),
            self.append_record(first),
            return_exceptions=True,
        )
        for outcome in (begun, lost):
            if isinstance(outcome, BaseException) and not isinstance(outcome, ClaimLostError):
                raise outcome
        if lost is not None:
            return await self._of_another(run)
        if not isinstance(begun, RunRow):
            return run
        return begun if begun.writer == run.writer else replace(begun, state=RUN_STATE_QUEUED)

    async def _of_another(self, run: RunRow) -> RunRow:
        """The run, which another engine has claimed before its first record was stored.

        RUNNING would say that it is the caller's to work on, which it is not.
        """
        with translated():
            stored = run_row(await self._collections.runs.find_one({"_id": run.run_id}))
        return stored if stored.state in FINAL_STATES else replace(stored, state=RUN_STATE_QUEUED)

    async def _open_session(self, run: RunRow) -> None:
        key = session_key(run.namespace, run.session_id)
        try:
            await self._sessions.insert(session_document(run_document(run), until_us=run.lease_us))
        except DuplicateDocumentError:
            with translated():
                session = await self._collections.sessions.find_one({"_id": key})
            # The same create_run again, after a broken connection, finds its own.
            if session is None or session["active_run_id"] != run.run_id:
                raise SessionTakenError from None

    async def _drop_session(self, run: RunRow) -> None:
        with translated():
            await self._collections.sessions.delete_one(
                {
                    "_id": session_key(run.namespace, run.session_id),
                    "active_run_id": run.run_id,
                    "message_count": 0,
                }
            )

    async def _known(self, run: RunRow) -> RunRow | None:
        """The run that is stored under the same request_id or run_id; None where the run_id is ruled out."""
        runs = self._collections.runs
        document = None
        with translated():
            if run.request_id:
                document = await runs.find_one({"namespace": run.namespace, "request_id": run.request_id})
            document = document or await runs.find_one({"_id": run.run_id})
        return run_row(document) if document and "ruled_out" not in document else None

    def append_record(self, record: JournalRecord) -> "asyncio.Future[None]":
        """Append a record; fails with ClaimLostError where another stands there."""
        return self._journal.insert(record_document(record), len(record.data))

    async def _judge_record(self, document: Document) -> None:
        place = {name: document[name] for name in ("root_run_id", "first_sequence")}
        with translated():
            stored = await self._collections.journal.find_one(place, {"writer": True, "data": True})
        if stored is None:
            raise StoreUnavailableError(
                "a record is stored, but not yet by a majority of MongoDB's members", store="mongodb"
            )
        if (stored["writer"], stored["data"]) != (document["writer"], document["data"]):
            root_run_id = document["root_run_id"]
            raise ClaimLostError(f"another engine has taken over {root_run_id}", run_id=root_run_id)

    async def claim(self, run_id: str, record: JournalRecord, lease_us: int) -> None:
        """Append the claim, then say on the run whose it is, unless a later claim has."""
        await self.append_record(record)
        await self._runs.update(
            {"_id": run_id, "claim_sequence": {"$lt": record.first_sequence}},
            {
                "$set": {
                    "writer": record.writer,
                    "lease_us": lease_us,
                    "claim_sequence": record.first_sequence,
                }
            },
        )

    async def finish(self, record: JournalRecord, outcome: RunOutcome) -> None:
        """Append a run's last record; then its messages, its end, and last let go of its session.

        Every step can be done again. While the run holds its session nobody else adds to it: its messages get
        the same positions each time. A run that has let go, or never had its turn, adds nothing. A run that
        has ended is never looked at again: its messages are counted before.
        """
        key = session_key(outcome.namespace, outcome.session_id)
        with translated():
            session, _ = await asyncio.gather(
                self._collections.sessions.find_one({"_id": key}), self.append_record(record)
            )
        held = session is not None and session["active_run_id"] == outcome.run_id
        if held and outcome.messages:
            await self._add_messages(key, session, outcome)
        await self._runs.update(
            {"_id": outcome.run_id, "state": NOT_FINAL},
            {"$set": {"state": outcome.state, "end_us": outcome.end_us, "result": outcome.result}},
        )
        if held:
            await self._sessions.update(
                {"_id": key, "active_run_id": outcome.run_id},
                {"$set": {"active_run_id": None, "update_us": outcome.end_us}},
            )

    async def _add_messages(self, key: str, session: Mapping[str, Any], outcome: RunOutcome) -> None:
        count = session["message_count"]
        if session.get("counted_run_id") == outcome.run_id:
            count -= len(outcome.messages)
        counted = {
            "message_count": count + len(outcome.messages),
            "counted_run_id": outcome.run_id,
            "update_us": outcome.end_us,
        }
        await asyncio.gather(
            self._sessions.update({"_id": key, "active_run_id": outcome.run_id}, {"$set": counted}),
            *(
                self._messages.insert(_message_document(outcome, position, message), len(message))
                for position, message in enumerate(outcome.messages, count + 1)
            ),
        )

    async def _judge_message(self, document: Document) -> None:
        place = {name: document[name] for name in ("namespace", "session_id", "position")}
        with translated():
            stored = await self._collections.messages.find_one(place, {"run_id": True})
        if stored is None or stored["run_id"] != document["run_id"]:
            raise InternalError(f"message {place} is another run's than {document['run_id']}'s")


def _other(known: RunRow | None, *, new_session: bool) -> RunRow:
    """What create_run gives where a run cannot be stored."""
    if known is not None:
        return known
    if new_session:
        raise SessionTakenError
    raise StoreUnavailableError("storing the run took too long: try again", store="mongodb")


def _message_document(outcome: RunOutcome, position: int, message: str) -> dict[str, Any]:
    return {
        "namespace": outcome.namespace,
        "session_id": outcome.session_id,
        "position": position,
        "run_id": outcome.run_id,
        "message_json": message,
        "time_us": outcome.end_us,
    }
