"""Whose turn it is in a session of the MongoDB store: at most one run holds it, and only that one runs.

A session's document names the run that holds it. A run is RUNNING only while it holds its session, and lets
go of it after its end is written. Whatever an engine leaves half done, the next that asks sees from these two
documents. Clocks only say when it is worth trying.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pymongo import ASCENDING, DESCENDING
from pymongo.errors import DuplicateKeyError

from retinue_engine.store import FINAL_STATES, RUN_STATE_QUEUED, RUN_STATE_RUNNING, RunRow
from retinue_engine.store_mongo_documents import Collections, Document, run_row, session_document, session_key
from retinue_engine.store_mongo_errors import translated

_OLDEST = [("create_us", ASCENDING), ("_id", ASCENDING)]
_LOOK_AT = 200
"""Sessions that are looked at together."""


_HOLDER = dict.fromkeys(("state", "ruled_out", "namespace", "session_id", "create_us"), True)


class _Seen(NamedTuple):
    session: Mapping[str, Any] | None
    run: Mapping[str, Any] | None


class Turns:
    """Gives the turns."""

    def __init__(self, collections: Collections) -> None:
        self._runs = collections.runs
        self._sessions = collections.sessions
        self._messages = collections.messages

    async def begin_next(
        self, namespace: str, session_id: str, lease_us: int, only: str | None = None
    ) -> RunRow | None:
        """Let the oldest queued run of a free session begin; with `only`, if it is this one.

        Others leave it alone until `lease_us`, by when the engine that lets it begin has claimed it.
        """
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

    async def _look(self, namespace: str, session_id: str) -> "_Seen | None":
        """A session and the run that may have it; None where a run holds it, or none waits."""
        queued = {"state": RUN_STATE_QUEUED, "namespace": namespace, "session_id": session_id}
        with translated():
            session, oldest = await asyncio.gather(
                self._sessions.find_one({"_id": session_key(namespace, session_id)}),
                self._runs.find_one(queued, _HOLDER, sort=_OLDEST),
            )
        active = session["active_run_id"] if session else None
        if active is None:
            return _Seen(session, oldest) if oldest else None
        holder = await self._holder(active)
        if holder is None and not _on_its_way(holder, session):
            await self._rule_out(active)
            holder = await self._holder(active)
        if _on_its_way(holder, session) or _holds(holder):
            return None
        if holder and holder.get("state") == RUN_STATE_QUEUED:
            oldest = holder  # It was given the turn, and who gave it stopped before it could begin.
        return _Seen(session, oldest)

    async def waiting(self, limit: int) -> list[tuple[str, str]]:
        """Sessions in which a run waits and none holds the turn."""
        found: list[tuple[str, str]] = []
        with translated():
            groups = self._runs.aggregate(
                [
                    {"$match": {"state": RUN_STATE_QUEUED}},
                    {"$group": {"_id": {"namespace": "$namespace", "session_id": "$session_id"}}},
                ]
            )
            keys = [(each["_id"]["namespace"], each["_id"]["session_id"]) async for each in groups]
            for start in range(0, len(keys), _LOOK_AT):
                if len(found) >= limit:
                    break
                found += await self._free(keys[start : start + _LOOK_AT])
        return found[:limit]

    async def _free(self, keys: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those of the sessions that no run holds."""
        sessions = await self._sessions.find(
            {"_id": {"$in": [session_key(*key) for key in keys]}},
            {"active_run_id": True, "active_until_us": True},
        ).to_list(None)
        taken = {each["_id"]: each for each in sessions if each["active_run_id"] is not None}
        active = [each["active_run_id"] for each in taken.values()]
        runs = await self._runs.find({"_id": {"$in": active}}, _HOLDER).to_list(None) if active else []
        holders = {run["_id"]: run for run in runs}
        held = {
            key
            for key, session in taken.items()
            if _on_its_way(holder := holders.get(session["active_run_id"]), session) or _holds(holder)
        }
        return [key for key in keys if session_key(*key) not in held]

    async def _holder(self, run_id: str) -> Document | None:
        with translated():
            found: Document | None = await self._runs.find_one({"_id": run_id}, _HOLDER)
        return found

    async def _rule_out(self, run_id: str) -> None:
        """See to it that a run that was never stored never will be: its engine stopped, or is very late."""
        with translated():
            try:
                await self._runs.insert_one({"_id": run_id, "ruled_out": True})
            except DuplicateKeyError:
                return  # it is stored now

    async def _pass_turn(self, seen: "_Seen") -> bool:
        """Give the session to the run, or to none; whether it was still as it was seen."""
        if seen.session is None:
            with translated():
                try:
                    await self._sessions.insert_one(session_document(seen.run or {}))
                except DuplicateKeyError:
                    return False
            return True
        run_id = seen.run["_id"] if seen.run else None
        active = seen.session["active_run_id"]
        if active == run_id:
            return True
        change = {"active_run_id": run_id}
        with translated():
            if active is not None:
                # Its run has ended, and perhaps nobody has counted what it said.
                change["message_count"] = await self._count(seen.session)
            changed = await self._sessions.update_one(
                {"_id": seen.session["_id"], "active_run_id": active}, {"$set": change}
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


def _on_its_way(holder: Mapping[str, Any] | None, session: Mapping[str, Any] | None) -> bool:
    """Whether the holder is not stored yet, and may be soon."""
    return holder is None and session is not None and session["active_until_us"] > time.time_ns() // 1000


def _holds(holder: Mapping[str, Any] | None) -> bool:
    """Whether a run that a session names has begun and not ended."""
    if holder is None or "ruled_out" in holder:
        return False
    return holder["state"] != RUN_STATE_QUEUED and holder["state"] not in FINAL_STATES
