"""Runs in the MongoDB store: found, listed, commanded, and whose time has come."""

from collections.abc import Sequence
from typing import Any

from pymongo import ASCENDING, ReturnDocument

from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import IS_CHILD, IS_ROOT, NOT_FINAL, OLDEST, Document, run_row
from retinue_engine.stores.mongo.reads import newest
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import (
    NOW,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    SUSPENDED_STATES,
    Control,
    RunFilter,
    RunRow,
)


class Runs:
    """Finds runs, and stores what people want of them."""

    _collections: Collections

    async def get_run(self, namespace: str, run_id: str) -> RunRow | None:
        """See Store."""
        return await self._find_run({"_id": run_id, "namespace": namespace})

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        """See Store."""
        if not request_id:
            return None
        return await self._find_run({"namespace": namespace, "request_id": request_id})

    async def _find_run(self, which: Document) -> RunRow | None:
        with translated():
            document = await self._collections.runs.find_one(which)
        return run_row(document) if document else None

    async def list_runs(self, which: RunFilter, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
        """See Store."""
        conditions: Document = {"namespace": which.namespace}
        if which.root_run_id:
            conditions |= {"root_run_id": which.root_run_id, **IS_CHILD}
        else:
            conditions |= IS_ROOT
        if which.session_id:
            conditions["session_id"] = which.session_id
        if which.target_name:
            conditions["target_name"] = which.target_name
        if which.states:
            conditions["state"] = {"$in": [int(state) for state in which.states]}
        return [
            run_row(each) for each in await newest(self._collections.runs, conditions, "_id", before, limit)
        ]

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """See Store."""
        over = {"state": RUN_STATE_RUNNING, **IS_ROOT, "lease_us": {"$lt": now_us}}
        return await self._first(over, OLDEST, limit)

    async def due_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """See Store."""
        # The lower bound is the index's own: without it the index is not used.
        due = {
            "state": {"$in": sorted(SUSPENDED_STATES)},
            **IS_ROOT,
            "attention_us": {"$gte": NOW, "$lte": now_us},
        }
        return await self._first(due, [("attention_us", ASCENDING)], limit)

    async def expired_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """See Store."""
        expired = {"state": RUN_STATE_QUEUED, "expire_us": {"$gte": 0, "$lte": now_us}}
        return await self._first(expired, [("expire_us", ASCENDING)], limit)

    async def _first(self, which: Document, sort: list[tuple[str, int]], limit: int) -> list[RunRow]:
        if limit <= 0:
            return []
        with translated():
            found = await self._collections.runs.find(which, sort=sort, limit=limit).to_list(None)
        return [run_row(document) for document in found]

    async def control_run(self, namespace: str, run_id: str, control: Control) -> RunRow | None:
        """See Store."""
        change: Document = {"attention_us": NOW}
        if control.cancel_reason is not None:
            # What people write is a value, also where it begins with a dollar.
            change["cancel_reason"] = {"$ifNull": ["$cancel_reason", {"$literal": control.cancel_reason}]}
        if control.resume or control.pause_reason is not None:
            change["pause_reason"] = {"$literal": None if control.resume else control.pause_reason}
        with translated():
            document = await self._collections.runs.find_one_and_update(
                {"_id": run_id, "namespace": namespace, "state": NOT_FINAL},
                [{"$set": change}],
                return_document=ReturnDocument.AFTER,
            )
        return run_row(document) if document else await self.get_run(namespace, run_id)

    async def commanded_runs(self) -> list[str]:
        """See Store."""
        with translated():
            found = await self._collections.runs.find(
                {"state": RUN_STATE_RUNNING, **IS_ROOT, "attention_us": NOW}, {"_id": True}
            ).to_list(None)
        return [each["_id"] for each in found]

    async def take_commands(self, run_ids: Sequence[str]) -> list[RunRow]:
        """See Store."""
        if not run_ids:
            return []
        which = {"_id": {"$in": list(run_ids)}, "state": RUN_STATE_RUNNING, **IS_ROOT}
        with translated():
            await self._collections.runs.update_many(
                {**which, "attention_us": NOW}, {"$set": {"attention_us": None}}
            )
            found = await self._collections.runs.find(which).to_list(None)
        return [run_row(document) for document in found]

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:
        """See Store."""
        if not runs:
            return []
        writers = {run.run_id: run.writer for run in runs}
        # A writer's token is drawn for one claim of one run: who lost the claim renews nothing.
        which = {"_id": {"$in": list(writers)}}
        held = {**which, "writer": {"$in": list(writers.values())}, "state": NOT_FINAL}
        with translated():
            renewed = await self._collections.runs.update_many(held, {"$set": {"lease_us": lease_us}})
            if renewed.matched_count == len(writers):
                return []
            stored = await self._collections.runs.find(which, {"writer": True}).to_list(None)
        holders: dict[str, Any] = {each["_id"]: each.get("writer") for each in stored}
        # One that is not there has ended, and was deleted.
        return [run_id for run_id, writer in writers.items() if holders.get(run_id) != writer]
