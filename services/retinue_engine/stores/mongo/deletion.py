"""Deleting a session of the MongoDB store, step by step: an engine may stop between any two of them.

Whoever deletes first says so in the session's document by a token, then looks whether a run has not ended,
then decides, if the token still stands. Whoever brings a run into the session stores it first, then looks at
the session and takes the token away. So one of the two sees the other. Nobody enters a session whose deletion
is decided, and it is never taken back.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from pymongo import ReturnDocument

from retinue.errors import SessionBusyError
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import DECIDED, IS_CHILD, IS_ROOT, Document, session_key
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.mongo.turns import Turns, busy_error, holds, on_its_way
from retinue_engine.stores.rows import RUN_STATE_QUEUED

_TOGETHER = 100
"""Runs that are deleted together."""

_ENDED = {"$gte": 5}


class Deletion:
    """Deletes sessions."""

    def __init__(self, collections: Collections, turns: Turns) -> None:
        self._collections = collections
        self._turns = turns

    async def delete(self, namespace: str, session_id: str) -> int | None:
        """See Store."""
        key = session_key(namespace, session_id)
        with translated():
            if not await self._decide(key):
                return None
            removed = await self._remove_steps(namespace, session_id)
            return removed + await self._remove(key, namespace, session_id)

    async def _remove_steps(self, namespace: str, session_id: str) -> int:
        """Remove the sessions of a session's steps; how many runs there were in them.

        One in which a run of its own is at work stays, and is of no step from then on.
        """
        sessions = self._collections.sessions
        which = {"namespace": namespace, "base_session_id": session_id}
        removed = 0
        while some := await sessions.find(which, {"session_id": True}, limit=_TOGETHER).to_list(None):
            for each in some:
                try:
                    await self._decide(each["_id"])
                except SessionBusyError:
                    await sessions.update_one({"_id": each["_id"]}, {"$set": {"base_session_id": ""}})
                else:
                    removed += await self._remove(each["_id"], namespace, each["session_id"])
        return removed

    async def _decide(self, key: str) -> bool:
        """Whether the session is to be deleted now; False where there is none. Raises SessionBusyError."""
        sessions = self._collections.sessions
        while True:
            session = await sessions.find_one_and_update(
                {"_id": key, "deleting": {"$ne": DECIDED}},
                # A token that stands there is good for both.
                [{"$set": {"deleting": {"$ifNull": ["$deleting", secrets.token_hex(8)]}}}],
                return_document=ReturnDocument.AFTER,
            )
            if session is None:
                return await sessions.find_one({"_id": key}, {"_id": True}) is not None
            token = {"_id": key, "deleting": session["deleting"]}
            busy = await self._unfinished(session)
            if busy is not None:
                await sessions.update_one(token, {"$unset": {"deleting": ""}})
                raise busy_error(session["session_id"], busy)
            # Used long ago: where nobody deletes it again, retention finds it first.
            decided = await sessions.update_one(token, {"$set": {"deleting": DECIDED, "update_us": 0}})
            if decided.matched_count:
                return True

    async def _unfinished(self, session: Mapping[str, Any]) -> str | None:
        """A run of the session that has not ended: one is queued, or holds it."""
        which = {name: session[name] for name in ("namespace", "session_id")}
        queued = await self._collections.runs.find_one({"state": RUN_STATE_QUEUED, **which}, {"_id": True})
        if queued is not None:
            return str(queued["_id"])
        active: str | None = session["active_run_id"]
        if active is None:
            return None
        holder = await self._turns.settled_holder(session)
        busy = on_its_way(holder, session) or holds(holder)
        return active if busy or (holder or {}).get("state") == RUN_STATE_QUEUED else None

    async def _remove(self, key: str, namespace: str, session_id: str) -> int:
        """Remove what belongs to a session, and last itself; how many runs there were.

        A run that is queued was stored by an engine that has not looked at the session yet: it is left alone.
        """
        runs = self._collections.runs
        which = {"namespace": namespace, "session_id": session_id}
        await self._collections.messages.delete_many(which)
        removed = 0
        while roots := await runs.find(
            {**which, **IS_ROOT, "state": _ENDED}, {"_id": True}, limit=_TOGETHER
        ).to_list(None):
            ids = {"$in": [each["_id"] for each in roots]}
            trees: Document = {"root_run_id": ids}
            for each in (self._collections.journal, self._collections.inputs, self._collections.blobs):
                await each.delete_many(trees)
            removed += (await runs.delete_many({**trees, **IS_CHILD})).deleted_count
            removed += (await runs.delete_many({"_id": ids})).deleted_count
        await self._collections.sessions.delete_one({"_id": key, "deleting": DECIDED})
        return removed
