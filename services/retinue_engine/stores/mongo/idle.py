"""Which sessions of the MongoDB store are free: where a run can begin, and where nobody comes any more."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, DESCENDING

from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import DECIDED, Document, session_key
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.mongo.turns import HOLDER, holds, on_its_way
from retinue_engine.stores.rows import RUN_STATE_QUEUED, QueuedSession

_LOOK_AT = 200
"""Sessions that are looked at together."""

_SEEN = dict.fromkeys(("namespace", "session_id", "active_run_id", "active_until_us", "deleting"), True)

_OF_NO_STEP = {"base_session_id": ""}


class IdleSessions:
    """Finds sessions that no run holds."""

    _collections: Collections

    async def queued_namespaces(self) -> list[str]:
        """See Store."""
        with translated():
            found: list[str] = await self._collections.runs.distinct("namespace", {"state": RUN_STATE_QUEUED})
        return found

    async def count_queued(self, namespace: str | None = None) -> int:
        """See Store."""
        queued: Document = {"state": RUN_STATE_QUEUED}
        if namespace is not None:
            queued["namespace"] = namespace
        with translated():
            return int(await self._collections.runs.count_documents(queued))

    async def free_sessions(self, namespace: str, limit: int) -> list[QueuedSession]:
        """See Store."""
        found: list[QueuedSession] = []
        with translated():
            groups = await self._collections.runs.aggregate(
                [
                    {"$match": {"state": RUN_STATE_QUEUED, "namespace": namespace}},
                    {"$sort": dict.fromkeys(("session_id", "create_us", "_id"), ASCENDING)},
                    {
                        "$group": {
                            "_id": "$session_id",
                            "priority": {"$first": "$priority"},
                            "create_us": {"$first": "$create_us"},
                        }
                    },
                    {"$sort": {"priority": DESCENDING, "create_us": ASCENDING, "_id": ASCENDING}},
                ]
            ).to_list(None)
            queued = [
                QueuedSession(namespace, each["_id"], each["priority"], each["create_us"]) for each in groups
            ]
            for start in range(0, len(queued), _LOOK_AT):
                if len(found) >= limit:
                    break
                some = queued[start : start + _LOOK_AT]
                keys = [session_key(namespace, each.session_id) for each in some]
                sessions = await self._collections.sessions.find({"_id": {"$in": keys}}, _SEEN).to_list(None)
                busy = await self._busy(sessions)
                busy |= {each["_id"] for each in sessions if each.get("deleting") == DECIDED}
                found += [each for each in some if session_key(namespace, each.session_id) not in busy]
        return found[:limit]

    async def old_sessions(self, before_us: int, limit: int) -> list[tuple[str, str]]:
        """See Store."""
        found: list[tuple[str, str]] = []
        with translated():
            for namespace in await self._collections.sessions.distinct("namespace"):
                old = {"namespace": namespace, **_OF_NO_STEP, "update_us": {"$lt": before_us}}
                found += await self._unused(old, None, limit - len(found))
                if len(found) >= limit:
                    break
        return found

    async def surplus_sessions(self, keep: int, limit: int) -> list[tuple[str, str]]:
        """See Store."""
        found: list[tuple[str, str]] = []
        sessions = self._collections.sessions
        with translated():
            for namespace in await sessions.distinct("namespace"):
                which = {"namespace": namespace, **_OF_NO_STEP}
                surplus = await sessions.count_documents(which) - keep
                if surplus > 0:
                    found += await self._unused(which, surplus, limit - len(found))
                if len(found) >= limit:
                    break
        return found

    async def _unused(self, which: Document, first: int | None, limit: int) -> list[tuple[str, str]]:
        """Of the sessions that were used longest ago, those that are free and have no queued runs."""
        found: list[tuple[str, str]] = []
        cursor = self._collections.sessions.find(
            which,
            _SEEN,
            sort=[("update_us", ASCENDING), ("session_id", ASCENDING)],
            limit=first or 0,
            batch_size=_LOOK_AT,
        )
        while len(found) < limit and (some := await cursor.to_list(_LOOK_AT)):
            names = [each["session_id"] for each in some]
            busy, queued = await asyncio.gather(self._busy(some), self._queued(some[0]["namespace"], names))
            found += [
                (each["namespace"], each["session_id"])
                for each in some
                if each["_id"] not in busy and each["session_id"] not in queued
            ]
        await cursor.close()
        return found[:limit]

    async def _busy(self, sessions: Sequence[Document]) -> set[str]:
        """The keys of those that a run holds."""
        taken = [each for each in sessions if each["active_run_id"] is not None]
        if not taken:
            return set()
        active = [each["active_run_id"] for each in taken]
        runs = await self._collections.runs.find({"_id": {"$in": active}}, HOLDER).to_list(None)
        holders: dict[str, Any] = {run["_id"]: run for run in runs}
        return {
            each["_id"]
            for each in taken
            if on_its_way(holder := holders.get(each["active_run_id"]), each) or holds(holder)
        }

    async def _queued(self, namespace: str, names: Sequence[str]) -> set[str]:
        which = {"state": RUN_STATE_QUEUED, "namespace": namespace, "session_id": {"$in": names}}
        return set(await self._collections.runs.distinct("session_id", which))
