"""Sessions in the MongoDB store: read, listed, labelled; and what was said in them."""

from collections.abc import Mapping, Sequence

from pymongo import ASCENDING, ReturnDocument

from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import (
    AT_WORK,
    Document,
    label_texts,
    message_row,
    session_key,
    session_row,
)
from retinue_engine.stores.mongo.reads import newest
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import MessageRow, SessionRow


class Sessions:
    """Finds sessions and their messages."""

    _collections: Collections

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        """See Store."""
        with translated():
            document = await self._collections.sessions.find_one({"_id": session_key(namespace, session_id)})
        return await self._row(document)

    async def _row(self, document: Document | None) -> SessionRow | None:
        return (await self._rows([document]))[0] if document else None

    async def _rows(self, documents: Sequence[Document]) -> list[SessionRow]:
        """The sessions, each with the run that holds it, if that has begun and not ended."""
        holders = [each["active_run_id"] for each in documents if each["active_run_id"] is not None]
        at_work: set[str] = set()
        if holders:
            which = {"_id": {"$in": holders}, "state": AT_WORK}
            with translated():
                found = await self._collections.runs.find(which, {"_id": True}).to_list(None)
            at_work = {each["_id"] for each in found}
        return [
            session_row(each, each["active_run_id"] if each["active_run_id"] in at_work else None)
            for each in documents
        ]

    async def list_sessions(
        self,
        namespace: str,
        before: tuple[int, str] | None,
        limit: int,
        labels: Mapping[str, str] | None = None,
        base: str = "",
    ) -> list[SessionRow]:
        """See Store."""
        conditions: Document = {"namespace": namespace, "base_session_id": base}
        if labels:
            conditions["labels"] = {"$all": label_texts(labels)}
        found = await newest(self._collections.sessions, conditions, "session_id", before, limit)
        return await self._rows(found)

    async def label_session(
        self, namespace: str, session_id: str, labels: Mapping[str, str]
    ) -> SessionRow | None:
        """See Store."""
        with translated():
            document = await self._collections.sessions.find_one_and_update(
                {"_id": session_key(namespace, session_id)},
                {"$set": {"labels": label_texts(labels)}},
                return_document=ReturnDocument.AFTER,
            )
        return await self._row(document)

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        """See Store."""
        if limit == 0:
            return []
        with translated():
            documents = await self._collections.messages.find(
                {"namespace": namespace, "session_id": session_id, "position": {"$gt": after}},
                sort=[("position", ASCENDING)],
                limit=limit or 0,
            ).to_list(None)
        return [message_row(document) for document in documents]
