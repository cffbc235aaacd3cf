"""Sessions of workflow steps in the MongoDB store: each run of a step adds to them once.

Only the tree that has its turn in the base session writes them, one record after the other: nothing moves
between the look and the change but by an engine that has lost its claim. What is added takes its places in
the session's document first, which remembers by whom; its messages follow, at the same places each time.
"""

import asyncio
from contextlib import suppress
from dataclasses import asdict

from pymongo import ReturnDocument

from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import (
    DECIDED,
    Document,
    message_document,
    session_document,
    session_key,
)
from retinue_engine.stores.mongo.writes import Writes
from retinue_engine.stores.rows import RunOutcome
from retinue_kit.mongodb import DuplicateDocumentError

_REMEMBERED = 32
"""Runs of steps that ended, of which a session knows where their messages begin."""


class StepSessions:
    """Adds what runs of steps leave."""

    def __init__(self, writes: Writes) -> None:
        self._writes = writes
        self._sessions = writes.collections.sessions

    async def add(self, outcome: RunOutcome) -> None:
        """Add a run's messages and what it used, unless the session is none of this step's, or is in use."""
        key = session_key(outcome.namespace, outcome.session_id)
        while True:
            with translated():
                session = await self._sessions.find_one({"_id": key})
            if session is None:
                if not await self._open(outcome):
                    return
                continue
            if session["base_session_id"] != outcome.base_session_id or session["active_run_id"] is not None:
                return
            first = _first_of(session, outcome.run_id)
            if first is None:
                session = await self._take_places(session, outcome)
                if session is None:
                    continue  # somebody else did something here
                first = session["message_count"] - len(outcome.messages) + 1
            await asyncio.gather(
                *(
                    self._writes.messages.insert(message_document(outcome, position, message), len(message))
                    for position, message in enumerate(outcome.messages, first)
                )
            )
            return

    async def _open(self, outcome: RunOutcome) -> bool:
        """Make the session; False where the one to which it would belong is gone, or going."""
        base = {
            "_id": session_key(outcome.namespace, outcome.base_session_id),
            "deleting": {"$ne": DECIDED},
        }
        with translated():
            if await self._sessions.find_one(base, {"_id": True}) is None:
                return False
        run = {
            "_id": outcome.run_id,
            "namespace": outcome.namespace,
            "session_id": outcome.session_id,
            "create_us": outcome.end_us,
        }
        document = session_document(run, base=outcome.base_session_id)
        with suppress(DuplicateDocumentError):
            await self._writes.sessions.insert({**document, "active_run_id": None})
        return True

    async def _take_places(self, session: Document, outcome: RunOutcome) -> Document | None:
        """The session with room for a run's messages; None where it has changed meanwhile."""
        count = session["message_count"]
        used, flags = additions(outcome)
        mine = {"run_id": outcome.run_id, "first": count + 1}
        as_seen = {
            "_id": session["_id"],
            "message_count": count,
            "active_run_id": None,
            "base_session_id": outcome.base_session_id,
            "ended_steps.run_id": {"$ne": outcome.run_id},
        }
        change: Document = {
            "$inc": {"message_count": len(outcome.messages), **used},
            "$push": {"ended_steps": {"$each": [mine], "$slice": -_REMEMBERED}},
            "$set": {"update_us": outcome.end_us, **flags},
        }
        with translated():
            changed: Document | None = await self._sessions.find_one_and_update(
                as_seen, change, return_document=ReturnDocument.AFTER
            )
        return changed


def _first_of(session: Document, run_id: str) -> int | None:
    """Where the messages of a run begin that is counted already."""
    return next((each["first"] for each in session.get("ended_steps", ()) if each["run_id"] == run_id), None)


def additions(outcome: RunOutcome) -> tuple[Document, Document]:
    """What a run adds to its session's totals: what is summed up, and what is set."""
    totals = asdict(outcome.totals)
    unknown_cost = totals.pop("unknown_cost")
    used = {f"totals.{name}": value for name, value in totals.items() if value}
    return used, {"totals.unknown_cost": True} if unknown_cost else {}
