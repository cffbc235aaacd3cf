"""What follows from a record in the MongoDB store, step by step: an engine may stop between any two of them.

Every step can be done again. What a record says is true once the journal has it: whoever claims the run later
has read it. What it says of the run's present state is not: such steps look whether the claim still stands.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from retinue.engine.v1.input_pb2 import (
    INPUT_STATE_ANSWERED,
    INPUT_STATE_CLOSED,
    INPUT_STATE_PENDING,
)
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import (
    AT_WORK,
    IS_CHILD,
    NOT_FINAL,
    Document,
    input_document,
    message_document,
    run_document,
    session_document,
    session_key,
)
from retinue_engine.stores.mongo.memories import insert_memory
from retinue_engine.stores.mongo.step_sessions import StepSessions, additions
from retinue_engine.stores.mongo.writes import Writes
from retinue_engine.stores.rows import (
    FINAL_STATES,
    NOW,
    RUN_STATE_PAUSED,
    Effects,
    InputRow,
    JournalRecord,
    RunOutcome,
    RunRow,
    Suspension,
    Totals,
)
from retinue_kit.mongodb import DuplicateDocumentError

_NOTHING = Totals()

_REMEMBERED = 32
"""Runs that ended without having had their turn, of which a session knows that they are counted."""


class EffectWrites:
    """Writes what follows from records."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._collections = writes.collections
        self._step_sessions = StepSessions(writes)

    async def append(self, record: JournalRecord, effects: Effects) -> None:
        """Append a record, and what follows from it. Raises ClaimLostError."""
        if effects.blobs:
            await self._writes.store_blobs(effects.blobs)
        ending = next((each for each in effects.outcomes if each.run_id == record.root_run_id), None)
        session, is_new = await asyncio.gather(self._session(ending), self._writes.append_and_tell(record))
        if not is_new:
            with translated():
                stored = await self._collections.runs.find_one(
                    {"_id": record.root_run_id, "writer": record.writer}, {"state": True}
                )
            if stored is None:
                return  # another claim stands, or the run is deleted
            if stored["state"] in FINAL_STATES:
                # Its end is the last thing that is written of a run.
                await self._let_go(ending, session)
                return
        await self._follow(record, effects, again=not is_new)
        if ending is not None:
            await self._end(record, ending, session)
        elif effects.suspension is not None:
            await self._suspend(record, effects.suspension)

    async def _session(self, ending: RunOutcome | None) -> Document | None:
        """The session of a run that ends; opened here where it ends before who accepted it came to that."""
        if ending is None:
            return None
        key = {"_id": session_key(ending.namespace, ending.session_id)}
        with translated():
            found: Document | None = await self._collections.sessions.find_one(key)
            if found is not None:
                return found
            run = await self._collections.runs.find_one({"_id": ending.run_id, "state": NOT_FINAL})
        if run is None:
            return None  # its session was deleted after its end
        with suppress(DuplicateDocumentError):
            await self._writes.sessions.insert({**session_document(run), "active_run_id": None})
        with translated():
            opened: Document | None = await self._collections.sessions.find_one(key)
        return opened

    async def _follow(self, record: JournalRecord, effects: Effects, *, again: bool) -> None:
        """All but what ends or suspends the run; `again` where it may have been done, to some point."""
        if effects.children or effects.inputs:
            await asyncio.gather(
                *(self._begin_child(each, record.first_sequence) for each in effects.children),
                *(self._ask(each) for each in effects.inputs),
            )
        for memory in effects.memories:
            await insert_memory(self._collections.memories, memory)
        for input_id in effects.received:
            closed = {"$cond": [{"$eq": ["$state", INPUT_STATE_PENDING]}, INPUT_STATE_CLOSED, "$state"]}
            await self._writes.inputs.update(
                {"_id": input_id}, [{"$set": {"received": True, "state": closed}}]
            )
        for outcome in effects.outcomes:
            if outcome.closes_inputs:
                await self._close_inputs(record.root_run_id)
            if outcome.run_id != record.root_run_id:
                if outcome.base_session_id and not (again and await self._has_ended(outcome)):
                    await self._step_sessions.add(outcome)
                await self._writes.runs.update(
                    {"_id": outcome.run_id, "root_run_id": record.root_run_id, "state": NOT_FINAL},
                    {"$set": _end_of(outcome)},
                )

    async def _has_ended(self, outcome: RunOutcome) -> bool:
        """Whether a child has its end, which is written after what it adds to its session."""
        ended = {"_id": outcome.run_id, "state": outcome.state}
        with translated():
            return await self._collections.runs.find_one(ended, {"_id": True}) is not None

    async def _begin_child(self, child: RunRow, sequence: int) -> None:
        with suppress(DuplicateDocumentError):
            await self._writes.runs.insert(run_document(child, sequence))

    async def _ask(self, row: InputRow) -> None:
        with suppress(DuplicateDocumentError):
            await self._writes.inputs.insert(input_document(row), len(row.request))

    async def _close_inputs(self, root_run_id: str) -> None:
        with translated():
            await self._collections.inputs.update_many(
                {"root_run_id": root_run_id, "state": INPUT_STATE_PENDING},
                {"$set": {"state": INPUT_STATE_CLOSED}},
            )

    async def _suspend(self, record: JournalRecord, suspension: Suspension) -> None:
        """Suspend the children, then the root: where that is done, all is.

        A word that an engine took and did not pass on must wake the run again: that engine may be gone.
        """
        children = {"root_run_id": suspension.run_id, **IS_CHILD, "state": AT_WORK}
        with translated():
            await self._collections.runs.update_many(
                {**children, "claim_sequence": {"$lte": record.last_sequence}},
                {"$set": {"state": suspension.state}},
            )
        attention_us = suspension.attention_us
        if suspension.input_ids:
            which = {"_id": {"$in": list(suspension.input_ids)}, "state": INPUT_STATE_ANSWERED}
            with translated():
                if await self._collections.inputs.find_one(which, {"_id": True}) is not None:
                    attention_us = NOW
        # Missing is less than null, and a text is more.
        to_pause = {"$gt": ["$pause_reason", None]}
        unheard = [
            {"$eq": ["$attention_us", NOW]},
            {"$gt": ["$cancel_reason", None]},
            {"$ne": [to_pause, suspension.state == RUN_STATE_PAUSED]},
        ]
        change = {
            "state": suspension.state,
            "attention_us": {"$cond": [{"$or": unheard}, NOW, attention_us]},
        }
        await self._writes.runs.update(
            {"_id": suspension.run_id, "writer": record.writer, "state": AT_WORK}, [{"$set": change}]
        )

    async def _end(self, record: JournalRecord, outcome: RunOutcome, session: Document | None) -> None:
        """Write a run's messages and what it used, its end, and last let go of its session.

        While the run holds its session nobody else adds to it: its messages get the same positions each time.
        A run that never had its turn adds no messages. A run that has ended is never looked at again: what it
        adds is counted before.
        """
        if session is not None and outcome.run_id not in session.get("ended_waiting", ()):
            if session["active_run_id"] != outcome.run_id:
                await self._count_waiting(session["_id"], outcome)
            elif outcome.messages or outcome.totals != _NOTHING:
                await self._add_to_session(session, outcome)
        await self._writes.runs.update(
            {"_id": outcome.run_id, "state": NOT_FINAL, "writer": record.writer},
            {"$set": {**_end_of(outcome), "attention_us": None}},
        )
        await self._let_go(outcome, session)

    async def _let_go(self, outcome: RunOutcome | None, session: Mapping[str, Any] | None) -> None:
        if outcome is None or session is None or session["active_run_id"] != outcome.run_id:
            return
        await self._writes.sessions.update(
            {"_id": session["_id"], "active_run_id": outcome.run_id},
            {"$set": {"active_run_id": None, "update_us": outcome.end_us}},
        )

    async def _add_to_session(self, session: Document, outcome: RunOutcome) -> None:
        count = session["message_count"]
        steps = []
        if session.get("counted_run_id") == outcome.run_id:
            count -= len(outcome.messages)
        else:
            held = {"_id": session["_id"], "active_run_id": outcome.run_id}
            used, flags = additions(outcome)
            change = {
                "$inc": {"message_count": len(outcome.messages), **used},
                "$set": {"counted_run_id": outcome.run_id, "update_us": outcome.end_us, **flags},
            }
            uncounted = {**held, "counted_run_id": {"$ne": outcome.run_id}}
            steps.append(self._writes.sessions.update(uncounted, change))
        steps += [
            self._writes.messages.insert(message_document(outcome, position, message), len(message))
            for position, message in enumerate(outcome.messages, count + 1)
        ]
        await asyncio.gather(*steps)

    async def _count_waiting(self, key: str, outcome: RunOutcome) -> None:
        """Count a run that ends without having had its turn."""
        used, flags = additions(outcome)
        change: Document = {
            "$max": {"update_us": outcome.end_us},
            "$push": {"ended_waiting": {"$each": [outcome.run_id], "$slice": -_REMEMBERED}},
        }
        if used:
            change["$inc"] = used
        if flags:
            change["$set"] = flags
        await self._writes.sessions.update({"_id": key, "ended_waiting": {"$ne": outcome.run_id}}, change)


def _end_of(outcome: RunOutcome) -> Document:
    return {"state": outcome.state, "end_us": outcome.end_us, "result": outcome.result}
