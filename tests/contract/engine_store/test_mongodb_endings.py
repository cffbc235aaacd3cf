"""The end of a run of the MongoDB store whose engine had not come to all of its beginning."""

from motor.motor_asyncio import AsyncIOMotorClient

from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import Totals

from .rows import end_of, ends, make_run, record


async def test_a_run_that_ends_before_its_session_is_there_is_counted_there(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as store:
        run = make_run("s")
        await store.create_run(run, record(run), new_session=False, queue=True)
        client = AsyncIOMotorClient(mongodb_uri)
        try:
            # As it is between the two steps of accepting a run, the run and its session.
            await client.get_default_database().sessions.delete_many({})
        finally:
            client.close()
        await store.append(record(run, 2), ends(end_of(run, totals=Totals(runs=1, turns=2))))
        session = await store.get_session("default", "s")
        assert session is not None
        assert (session.totals, session.active_run_id) == (Totals(runs=1, turns=2), None)
        # The same record again counts nothing twice.
        await store.append(record(run, 2), ends(end_of(run, totals=Totals(runs=1, turns=2))))
        assert await store.get_session("default", "s") == session
