"""Requests for input and blobs in the MongoDB store."""

from retinue.engine.v1.input_pb2 import INPUT_STATE_ANSWERED, INPUT_STATE_PENDING
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import NOT_FINAL, OLDEST, Document, blob_row, input_row
from retinue_engine.stores.mongo.reads import newest
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import NOW, BlobRow, InputRow


class Inputs:
    """Finds requests for input, and stores their answers."""

    _collections: Collections

    async def get_input(self, namespace: str, input_id: str) -> InputRow | None:
        """See Store."""
        with translated():
            document = await self._collections.inputs.find_one({"_id": input_id, "namespace": namespace})
        return input_row(document) if document else None

    async def list_inputs(
        self,
        namespace: str,
        root_run_id: str,
        before: tuple[int, str] | None,
        limit: int,
        *,
        closed: bool = False,
    ) -> list[InputRow]:
        """See Store."""
        conditions: Document = {"namespace": namespace}
        if root_run_id:
            conditions["root_run_id"] = root_run_id
        if not closed:
            conditions["state"] = INPUT_STATE_PENDING
        found = await newest(self._collections.inputs, conditions, "_id", before, limit)
        return [input_row(document) for document in found]

    async def answer_input(self, namespace: str, input_id: str, answer: bytes) -> InputRow | None:
        """See Store.

        Whoever finds the answer stored wakes the run: the engine that stored it may have stopped before.
        """
        which = {"_id": input_id, "namespace": namespace}
        with translated():
            await self._collections.inputs.update_one(
                {**which, "state": INPUT_STATE_PENDING},
                {"$set": {"state": INPUT_STATE_ANSWERED, "answer": answer}},
            )
            row = await self.get_input(namespace, input_id)
            if row is not None and row.state == INPUT_STATE_ANSWERED and row.answer == answer:
                await self._collections.runs.update_one(
                    {"_id": row.root_run_id, "state": NOT_FINAL}, {"$set": {"attention_us": NOW}}
                )
        return row

    async def answered_inputs(self, root_run_id: str) -> list[InputRow]:
        """See Store."""
        answered = {"root_run_id": root_run_id, "state": INPUT_STATE_ANSWERED, "received": False}
        with translated():
            found = await self._collections.inputs.find(answered, sort=OLDEST).to_list(None)
        return [input_row(document) for document in found]

    async def get_blob(self, root_run_id: str, blob_id: str) -> BlobRow | None:
        """See Store."""
        with translated():
            document = await self._collections.blobs.find_one(
                {"root_run_id": root_run_id, "blob_id": blob_id}
            )
        return blob_row(document) if document else None
