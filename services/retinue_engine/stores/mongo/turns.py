"""Whose turn it is in a session of the MongoDB store: at most one run holds it, and only that one runs.

A session's document names the run that holds it. A run is RUNNING only while it holds its session, and lets
go of it after its end is written. Whatever an engine leaves half done, the next that asks sees from these two
documents. Clocks only say when it is worth trying.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pymongo import DESCENDING
from pymongo.errors import DuplicateKeyError

from retinue.errors import SessionBusyError
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import (
    DECIDED,
    OLDEST,
    Document,
    run_document,
    run_row,
    session_document,
    session_key,
)
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import FINAL_STATES, RUN_STATE_QUEUED, RUN_STATE_RUNNING, RunRow

HOLDER = dict.fromkeys(("state", "ruled_out", "namespace", "session_id", "create_us"), True)
"""What is read of a run that holds a session."""


class _Seen(NamedTuple):
    session: Document | None
    run: Document | None


class Holder(NamedTuple):
    """The run that a session is busy with."""

    run_id: str
    on_its_way: bool
    """Whether it is not stored yet, and may be soon."""


class Turns:
    """Gives the turns."""

    def __init__(self, collections: Collections) -> None:
        self._runs = collections.runs
        self._sessions = collections.sessions
        self._messages = collections.messages

    async def begin_next(self, namespace: str, session_id: str, lease_us: int) -> RunRow | None:
        """Let the oldest queued run of a free session begin.

        Others leave it alone until `lease_us`, by when the engine that lets it begin has claimed it.
        """
        with suppress(SessionBusyError):
            return await self._begin_oldest(namespace, session_id, lease_us)
        return None

    async def begin(self, run: RunRow) -> RunRow | None:
        """Let a queued run begin if its session is free and it is the oldest there.

        Raises SessionBusyError where its session is being deleted.
        """
        return await self._begin_oldest(run.namespace, run.session_id, run.lease_us, only=run.run_id)

    async def _begin_oldest(
        self, namespace: str, session_id: str, lease_us: int, only: str | None = None
    ) -> RunRow | None:
        while seen := await self._look(namespace, session_id):
            if only is not None and (seen.run is None or seen.run["_id"] != only):
                return None
            if not await self._pass_turn(seen):
                continue  # somebody else did something here
            if seen.run is None:
                return None
            begun = await self._begin(seen.run["_id"], lease_us)
            if begun is not None:
                return begun
        return None

    async def _look(self, namespace: str, session_id: str) -> _Seen | None:
        """A session and the run that may have it; None where a run holds it, or none waits.

        Raises SessionBusyError where it is being deleted.
        """
        session, oldest = await self._read(namespace, session_id)
        active = session["active_run_id"] if session else None
        if session is None or active is None:
            return _Seen(session, oldest) if oldest else None
        holder = await self.settled_holder(session)
        if on_its_way(holder, session) or holds(holder):
            return None
        if holder and holder.get("state") == RUN_STATE_QUEUED:
            oldest = holder  # It was given the turn, and who gave it stopped before it could begin.
        return _Seen(session, oldest)

    async def _read(self, namespace: str, session_id: str) -> _Seen:
        """A session, which nobody means to delete now, and its oldest queued run."""
        key = session_key(namespace, session_id)
        queued = {"state": RUN_STATE_QUEUED, "namespace": namespace, "session_id": session_id}
        with translated():
            while True:
                session, oldest = await asyncio.gather(
                    self._sessions.find_one({"_id": key}), self._runs.find_one(queued, HOLDER, sort=OLDEST)
                )
                deleting = session.get("deleting") if session else None
                if deleting is None:
                    return _Seen(session, oldest)
                if deleting == DECIDED:
                    raise busy_error(session_id, None)
                await self._sessions.update_one(
                    {"_id": key, "deleting": deleting}, {"$unset": {"deleting": ""}}
                )

    async def enter(self, run: RunRow) -> None:
        """See to the session of a run that is stored as QUEUED: that it is there, and stays.

        Raises SessionBusyError where it is being deleted.
        """
        seen = await self._read(run.namespace, run.session_id)
        if seen.session is None:
            await self._open({**session_document(run_document(run)), "active_run_id": None})

    async def hold(self, run: RunRow) -> Holder | None:
        """Give a session without runs that have not ended to a run that is not stored yet.

        The run that it is busy with, where there is one. Raises SessionBusyError where it is being deleted.
        """
        while True:
            session, oldest = await self._read(run.namespace, run.session_id)
            if oldest is not None and oldest["_id"] != run.run_id:
                return Holder(oldest["_id"], on_its_way=False)
            active = session["active_run_id"] if session else None
            if active == run.run_id:
                return None  # the same again, after a broken connection
            if session is not None and active is not None:
                holder = await self.settled_holder(session)
                unstored = on_its_way(holder, session)
                if unstored or holds(holder) or (holder or {}).get("state") == RUN_STATE_QUEUED:
                    return Holder(active, unstored)
            held = session_document(run_document(run), run.lease_us)
            if session is None:
                done = await self._open(held)
            else:
                names = ("active_run_id", "active_until_us")
                done = await self._give(session, {name: held[name] for name in names})
            if done:
                return None

    async def settled_holder(self, session: Mapping[str, Any]) -> Document | None:
        """The run that holds a session, or what rules it out; None while it may be on its way."""
        active = session["active_run_id"]
        holder = await self._holder(active)
        if holder is None and not on_its_way(holder, session):
            await self._rule_out(active)
            holder = await self._holder(active)
        return holder

    async def _holder(self, run_id: str) -> Document | None:
        with translated():
            found: Document | None = await self._runs.find_one({"_id": run_id}, HOLDER)
        return found

    async def _rule_out(self, run_id: str) -> None:
        """See to it that a run that was never stored never will be: its engine stopped, or is very late."""
        with translated(), suppress(DuplicateKeyError):  # then it is stored now
            await self._runs.insert_one({"_id": run_id, "ruled_out": True})

    async def _pass_turn(self, seen: _Seen) -> bool:
        """Give the session to the run, or to none; whether it was still as it was seen."""
        session = seen.session
        if session is None:
            return await self._open(session_document(seen.run or {}))
        run_id = seen.run["_id"] if seen.run else None
        if session["active_run_id"] == run_id:
            return True
        return await self._give(session, {"active_run_id": run_id})

    async def _open(self, session: Document) -> bool:
        with translated():
            try:
                await self._sessions.insert_one(session)
            except DuplicateKeyError:
                return False
        return True

    async def _give(self, session: Document, change: Document) -> bool:
        active = session["active_run_id"]
        with translated():
            if active is not None:
                # Its run has ended, and perhaps nobody has counted what it said.
                change["message_count"] = await self._count(session)
            changed = await self._sessions.update_one(
                {"_id": session["_id"], "active_run_id": active, "deleting": None}, {"$set": change}
            )
        return bool(changed.matched_count)

    async def _count(self, session: Mapping[str, Any]) -> int:
        which = {"namespace": session["namespace"], "session_id": session["session_id"]}
        last = await self._messages.find_one(which, {"position": True}, sort=[("position", DESCENDING)])
        return last["position"] if last else 0

    async def _begin(self, run_id: str, lease_us: int) -> RunRow | None:
        """Let a queued run begin; None where it has begun or ended."""
        with translated():
            changed = await self._runs.update_one(
                {"_id": run_id, "state": RUN_STATE_QUEUED},
                {"$set": {"state": RUN_STATE_RUNNING}, "$max": {"lease_us": lease_us}},
            )
            return run_row(await self._runs.find_one({"_id": run_id})) if changed.matched_count else None


def busy_error(session_id: str, run_id: str | None) -> SessionBusyError:
    """The error to raise for a run that has not ended; without one, the session is being deleted."""
    if run_id is None:
        return SessionBusyError(
            f"session {session_id} is being deleted: delete it again if that does not end",
            session_id=session_id,
        )
    return SessionBusyError(
        f"session {session_id} has a run that has not ended: wait for {run_id}, or cancel it",
        session_id=session_id,
        run_id=run_id,
    )


def on_its_way(holder: Mapping[str, Any] | None, session: Mapping[str, Any] | None) -> bool:
    """Whether the holder is not stored yet, and may be soon."""
    return holder is None and session is not None and session["active_until_us"] > time.time_ns() // 1000


def holds(holder: Mapping[str, Any] | None) -> bool:
    """Whether a run that a session names has begun and not ended."""
    if holder is None or "ruled_out" in holder:
        return False
    return holder["state"] != RUN_STATE_QUEUED and holder["state"] not in FINAL_STATES
