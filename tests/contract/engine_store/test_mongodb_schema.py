"""Databases of other versions, and what the check of a database finds."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from retinue.engine.v1.event_pb2 import RunEvent, RunFinished, RunStarted
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue.engine.v1.service_pb2 import StreamRunResponse
from retinue_engine.stores.mongo.check import check
from retinue_engine.stores.mongo.documents import run_document
from retinue_engine.stores.mongo.schema import SCHEMA_VERSION, migrate, open_collections
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import (
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Effects,
    JournalRecord,
    RunFilter,
    RunRow,
    Totals,
)
from retinue_engine.stores.store import Store

from .rows import create, end_of, ends, get, ids, make_child, make_run, record
from .stopping import do_until_stopped

_SINCE_2 = (
    *("parent_run_id", "path", "origin_run_id", "origin_sequence"),
    *("priority", "expire_us", "pause_reason", "attention_us"),
)
_OLD_INDEXES = {
    "newest": [("namespace", 1), ("create_us", 1), ("_id", 1)],
    "cancelled": [("state", 1), ("cancel_reason", 1)],
}


@pytest.fixture
async def database(mongodb_uri: str) -> AsyncIterator[Any]:
    client: Any = AsyncIOMotorClient(mongodb_uri)
    try:
        yield client.get_default_database()
    finally:
        client.close()


@pytest.fixture
async def store(mongodb_uri: str) -> AsyncIterator[Store]:
    async with open_mongo_store(mongodb_uri) as opened:
        yield opened


def _of_version_1(run: RunRow) -> dict[str, Any]:
    return {name: value for name, value in run_document(run).items() if name not in _SINCE_2}


async def _fill_version_1(database: Any) -> list[RunRow]:
    """A session with a run that has ended, one at work that is cancelled, and one that is queued."""
    ended = make_run("s", state=RUN_STATE_SUCCEEDED, end_us=7, result=b"result")
    cancelled = make_run("s", state=RUN_STATE_RUNNING, cancel_reason="why")
    queued = make_run("s", state=RUN_STATE_QUEUED)
    runs = [ended, cancelled, queued]
    await database["runs"].insert_many([*map(_of_version_1, runs), {"_id": "lost", "ruled_out": True}])
    for name, keys in _OLD_INDEXES.items():
        await database["runs"].create_index(keys, name=name)
    await database["sessions"].insert_one(
        {
            "_id": "default/s",
            "namespace": "default",
            "session_id": "s",
            "message_count": 0,
            "create_us": 5,
            "update_us": 7,
            "active_run_id": cancelled.run_id,
            "active_until_us": 0,
        }
    )
    return runs


async def test_a_database_of_version_1_goes_on_where_it_was(mongodb_uri: str, database: Any) -> None:
    ended, cancelled, queued = await _fill_version_1(database)

    async def look() -> list[RunRow]:
        async with open_mongo_store(mongodb_uri) as engine:
            return await engine.list_runs(RunFilter("default"), None, 10)

    for found in await asyncio.gather(*(look() for _ in range(3))):
        assert ids(found) == ids([queued, cancelled, ended])
    assert "newest" not in await database["runs"].index_information()
    assert "cancelled" not in await database["runs"].index_information()
    async with open_mongo_store(mongodb_uri) as engine:
        assert await get(engine, ended) == ended
        # Its engine may not have heard of the cancel.
        assert await engine.commanded_runs() == [cancelled.run_id]
        (taken,) = await engine.take_commands([cancelled.run_id])
        assert taken == cancelled
        session = await engine.get_session("default", "s")
        assert session is not None
        assert (session.labels, session.totals, session.active_run_id) == ({}, Totals(), cancelled.run_id)
        await engine.append(record(cancelled), ends(end_of(cancelled, totals=Totals(runs=1))))
        begun = await engine.next_queued("default", "s")
        assert begun is not None
        assert begun.run_id == queued.run_id
        session = await engine.get_session("default", "s")
        assert session is not None
        assert session.totals == Totals(runs=1)


async def test_sessions_of_version_2_are_of_no_step(mongodb_uri: str, database: Any) -> None:
    async with open_mongo_store(mongodb_uri) as engine:
        run = await create(engine, make_run("s"))
    sessions = database["sessions"]
    await sessions.update_many({}, {"$unset": {"base_session_id": ""}})
    for name in ("newest_of_base", "used_of_base"):
        await sessions.drop_index(name)
    for name, field in (("newest", "create_us"), ("used", "update_us")):
        keys = [("namespace", 1), (field, 1), ("session_id", 1)]
        await sessions.create_index(keys, name=name)
    await database["meta"].update_one({}, {"$set": {"version": 2}})
    async with open_mongo_store(mongodb_uri) as engine:
        (session,) = await engine.list_sessions("default", None, 10)
        assert (session.session_id, session.active_run_id) == ("s", run.run_id)
        assert session.base_session_id == ""
    names = await sessions.index_information()
    assert {"newest_of_base", "used_of_base"} <= set(names)
    assert not {"newest", "used"} & set(names)


async def test_a_migration_that_is_done_again_changes_nothing(mongodb_uri: str, database: Any) -> None:
    await _fill_version_1(database)
    async with open_mongo_store(mongodb_uri) as engine:
        (run_id,) = await engine.commanded_runs()
        await engine.take_commands([run_id])
        before = await database["runs"].find({}).to_list(None)
        await database["meta"].delete_many({})  # as where it stopped before its last step
        await migrate(database)
        assert await database["runs"].find({}).to_list(None) == before
    assert await database["meta"].find_one({}) == {"_id": "schema", "version": SCHEMA_VERSION}


async def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    mongodb_uri: str, database: Any
) -> None:
    newer = SCHEMA_VERSION + 1
    await database["meta"].insert_one({"_id": "schema", "version": newer})
    with pytest.raises(ValueError, match=rf"version {newer}.*up to {SCHEMA_VERSION}: use an engine as new"):
        async with open_mongo_store(mongodb_uri):
            pass
    assert await database.list_collection_names() == ["meta"]
    assert await database["meta"].find_one({}) == {"_id": "schema", "version": newer}


def _events(run: RunRow, *events: RunEvent) -> JournalRecord:
    data = StreamRunResponse(events=events, through_sequence=events[-1].sequence).SerializeToString()
    return JournalRecord(run.run_id, events[0].sequence, events[-1].sequence, run.writer, data)


async def _whole(store: Store, session_id: str = "") -> RunRow:
    """A run that has ended as runs do."""
    run = make_run(session_id)
    started = RunEvent(run_id=run.run_id, sequence=1, run_started=RunStarted())
    finished = RunEvent(run_id=run.run_id, sequence=3, run_finished=RunFinished())
    await store.create_run(run, _events(run, started), new_session=False)
    delta = RunEvent(run_id=run.run_id, sequence=2)
    await store.append(_events(run, delta, finished), ends(end_of(run, "m1", "m2")))
    return run


async def test_a_database_in_which_all_is_well_is_found_well(database: Any, store: Store) -> None:
    for _ in range(3):
        await _whole(store, "s")
    at_work = await create(store, make_run("s"))
    await store.append(record(at_work, 2, 7))
    await create(store, make_run("s"))
    assert await check(await open_collections(database)) == []


async def test_a_hole_in_a_journal_is_found(database: Any, store: Store) -> None:
    run, other = await _whole(store), await create(store, make_run())
    await database["journal"].delete_one({"root_run_id": run.run_id, "first_sequence": 1})
    await store.append(record(other, 5))
    assert await check(await open_collections(database)) == [
        f"run {run.run_id}: its journal has no event 1; the next that it has is 2",
        f"run {other.run_id}: its journal has no event 2; the next that it has is 5",
    ]


async def test_an_ended_run_whose_journal_does_not_end_is_found(database: Any, store: Store) -> None:
    cut, empty, garbled = [await _whole(store) for _ in range(3)]
    await database["journal"].delete_one({"root_run_id": cut.run_id, "first_sequence": 2})
    await database["journal"].delete_many({"root_run_id": empty.run_id})
    await database["journal"].update_one(
        {"root_run_id": garbled.run_id, "first_sequence": 2}, {"$set": {"data": b"\xff"}}
    )
    assert await check(await open_collections(database)) == [
        f"run {cut.run_id}: it has ended, and its journal does not end in RunFinished",
        f"run {empty.run_id}: it has ended and has no journal",
        f"run {garbled.run_id}: the last record of its journal cannot be read",
    ]


async def test_messages_that_are_not_counted_or_missing_are_found(database: Any, store: Store) -> None:
    for session_id in ("uncounted", "missing", "well"):
        await _whole(store, session_id)
    await database["sessions"].update_one({"session_id": "uncounted"}, {"$set": {"message_count": 1}})
    await database["messages"].delete_one({"session_id": "missing", "position": 1})
    assert sorted(await check(await open_collections(database))) == [
        "session missing of namespace default: it counts 2 messages, 1 are stored, the last as 2",
        "session uncounted of namespace default: it counts 1 messages, 2 are stored, the last as 2",
    ]


async def test_a_steps_session_is_looked_at_once_nothing_adds_to_it(database: Any, store: Store) -> None:
    root = make_run("s")
    started = RunEvent(run_id=root.run_id, sequence=1, run_started=RunStarted())
    await store.create_run(root, _events(root, started), new_session=False)
    child = make_child(root, session_id="s:a")
    delta = RunEvent(run_id=root.run_id, sequence=2)
    effects = Effects(children=[child], outcomes=[end_of(child, "m1", "m2", base="s")])
    await store.append(_events(root, delta), effects)
    # As it is between the two steps of adding to it.
    await database["messages"].delete_many({"session_id": "s:a"})
    assert await check(await open_collections(database)) == []
    finished = RunEvent(run_id=root.run_id, sequence=3, run_finished=RunFinished())
    await store.append(_events(root, finished), ends(end_of(root)))
    assert await check(await open_collections(database)) == [
        "session s:a of namespace default: it counts 2 messages, 0 are stored, the last as 0"
    ]


async def test_a_deletion_that_did_not_end_is_found_and_nothing_else_of_its_session(
    mongodb_uri: str, database: Any, store: Store
) -> None:
    await _whole(store, "s")
    # Its messages and its journal are deleted, its run is not.
    assert not await do_until_stopped(mongodb_uri, 4, lambda engine: engine.delete_session("default", "s"))
    assert await check(await open_collections(database)) == [
        "session s of namespace default: its deletion did not end: delete it again"
    ]
    await store.delete_session("default", "s")
    assert await check(await open_collections(database)) == []
