"""Looks through a MongoDB store for what does not fit together. It only reads, and engines may be at work."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from pymongo import ASCENDING, DESCENDING

from retinue.engine.v1.service_pb2 import StreamRunResponse
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import DECIDED, IS_ROOT, session_key
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import FINAL_STATES

_TOGETHER = 100
"""Documents that are looked at together."""

_BY_ID = [("_id", ASCENDING)]
_BY_SEQUENCE = [("root_run_id", ASCENDING), ("first_sequence", ASCENDING)]
_SEQUENCES = {"root_run_id": True, "first_sequence": True, "last_sequence": True}
_RUN = dict.fromkeys(("namespace", "session_id", "state"), True)
_SESSION = dict.fromkeys(
    ("namespace", "session_id", "message_count", "active_run_id", "deleting", "base_session_id"), True
)


async def check(collections: Collections) -> list[str]:
    """What is wrong, a sentence each; nothing where all is well. Raises StoreUnavailableError."""
    looking = _Check(collections)
    with translated():
        return [*await looking.runs(), *await looking.sessions()]


class _Check:
    def __init__(self, collections: Collections) -> None:
        self._collections = collections

    async def runs(self) -> list[str]:
        """What is wrong with journals. Ended runs only lose theirs together with themselves."""
        found: list[str] = []
        async for some in _batches(self._collections.runs.find(IS_ROOT, _RUN, sort=_BY_ID)):
            states = {run["_id"]: run["state"] for run in some}
            gaps = await self._gaps(list(states))
            for run_id, state in states.items():
                wrong = gaps.get(run_id)
                if wrong is None and state in FINAL_STATES:
                    wrong = await self._missing_end(run_id)
                if wrong and await self._is_there(run_id):
                    found.append(f"run {run_id}: {wrong}")
        return found

    async def _gaps(self, run_ids: list[str]) -> dict[str, str]:
        """What is missing in the journals of these runs, by run."""
        found: dict[str, str] = {}
        ends: dict[str, int] = {}
        async for record in self._collections.journal.find(
            {"root_run_id": {"$in": run_ids}}, _SEQUENCES, sort=_BY_SEQUENCE
        ):
            run_id, first = record["root_run_id"], record["first_sequence"]
            following = ends.get(run_id, 0) + 1
            if first != following:
                found.setdefault(
                    run_id, f"its journal has no event {following}; the next that it has is {first}"
                )
            ends[run_id] = record["last_sequence"]
        return found

    async def _missing_end(self, run_id: str) -> str | None:
        last = await self._collections.journal.find_one(
            {"root_run_id": run_id}, {"data": True}, sort=[("first_sequence", DESCENDING)]
        )
        if last is None:
            return "it has ended and has no journal"
        try:
            events = StreamRunResponse.FromString(last["data"]).events
        except DecodeError:
            return "the last record of its journal cannot be read"
        if events and events[-1].HasField("run_finished"):
            return None
        return "it has ended, and its journal does not end in RunFinished"

    async def _is_there(self, run_id: str) -> bool:
        """Whether a run is not just being deleted."""
        run = await self._collections.runs.find_one({"_id": run_id}, _RUN)
        if run is None:
            return False
        going = {"_id": session_key(run["namespace"], run["session_id"]), "deleting": DECIDED}
        return await self._collections.sessions.find_one(going, {"_id": True}) is None

    async def sessions(self) -> list[str]:
        """What is wrong with sessions. What a run that holds one is just writing is not."""
        found: list[str] = []
        async for some in _batches(self._collections.sessions.find({}, _SESSION, sort=_BY_ID)):
            for session in some:
                if session.get("deleting") == DECIDED:
                    found.append(f"session {_name(session)}: its deletion did not end: delete it again")
                elif session["active_run_id"] is None and (wrong := await self._miscounted(session)):
                    found.append(f"session {_name(session)}: {wrong}")
        return found

    async def _miscounted(self, session: Mapping[str, Any]) -> str | None:
        which = {name: session[name] for name in ("namespace", "session_id")}
        messages = self._collections.messages
        stored = await messages.count_documents(which)
        last = await messages.find_one(which, {"position": True}, sort=[("position", DESCENDING)])
        position = last["position"] if last else 0
        if stored == position == session["message_count"]:
            return None
        again = await self._collections.sessions.find_one({"_id": session["_id"]}, _SESSION)
        if again != session or await self._is_base_held(session):
            return None  # somebody is at work there
        return f"it counts {session['message_count']} messages, {stored} are stored, the last as {position}"

    async def _is_base_held(self, session: Mapping[str, Any]) -> bool:
        """Whether a run may be adding to a step's session: that holds the one to which it belongs."""
        base = {"_id": session_key(session["namespace"], session["base_session_id"])}
        found = await self._collections.sessions.find_one(base, {"active_run_id": True})
        return found is not None and found["active_run_id"] is not None


def _name(session: Mapping[str, Any]) -> str:
    return f"{session['session_id']} of namespace {session['namespace']}"


async def _batches(cursor: Any) -> AsyncIterator[list[dict[str, Any]]]:
    while some := await cursor.to_list(_TOGETHER):
        yield some
