"""Deleting a session while engines stop, and while others bring runs into it."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from retinue.errors import SessionBusyError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Effects,
    RunFilter,
    RunRow,
    Totals,
)
from retinue_engine.stores.store import Store

from .rows import (
    LATER_US,
    create,
    end_of,
    ends,
    finish,
    get,
    ids,
    make_blob,
    make_child,
    make_input,
    make_run,
    positions,
    record,
)
from .stopping import do_until_stopped, slow_engine

MOST_WRITES = 16


@pytest.fixture
async def store(mongodb_uri: str) -> AsyncIterator[Store]:
    """Another engine."""
    async with open_mongo_store(mongodb_uri) as opened:
        yield opened


async def _fill(store: Store, session_id: str) -> list[RunRow]:
    """Two runs that have ended, and all that can belong to them."""
    runs = [make_run(session_id) for _ in range(2)]
    for run in runs:
        await store.create_run(run, record(run), new_session=False, blobs=[make_blob(run)])
        child = make_child(run)
        await store.append(record(run, 2), Effects(children=[child], inputs=[make_input(run)]))
        ended = end_of(run, "m", totals=Totals(runs=1), closes_inputs=True)
        await store.append(record(run, 3), ends(end_of(child), ended))
    return runs


async def _nothing_is_left(uri: str, session_id: str, runs: list[RunRow]) -> None:
    client: Any = AsyncIOMotorClient(uri)
    try:
        database = client.get_default_database()
        trees = {"root_run_id": {"$in": ids(runs)}}
        for name in ("runs", "journal", "inputs", "blobs"):
            assert await database[name].count_documents(trees) == 0
        for name in ("runs", "messages", "sessions"):
            assert await database[name].count_documents({"session_id": session_id}) == 0
    finally:
        client.close()


async def test_a_deletion_that_stopped_can_be_done_again(mongodb_uri: str, store: Store) -> None:
    for writes in itertools.count():
        assert writes <= MOST_WRITES
        session_id = f"session {writes}"
        runs = await _fill(store, session_id)
        finished = await do_until_stopped(
            mongodb_uri,
            writes,
            lambda engine, session_id=session_id: engine.delete_session("default", session_id),
        )
        # Nobody takes up what is half deleted.
        assert await store.abandoned_runs(LATER_US, 10) == []
        assert await store.next_queued("default", session_id) is None
        left = await store.list_runs(RunFilter("default", session_id), None, 10)
        assert all(run.state in FINAL_STATES for run in left)
        again = await store.delete_session("default", session_id)
        assert (again is None) is finished
        await _nothing_is_left(mongodb_uri, session_id, runs)
        run = await create(store, make_run(session_id), new_session=True)
        await finish(store, run, "m")
        assert await positions(store, run) == [(1, run.run_id, "m")]
        if finished:
            return


async def test_retention_finds_a_session_that_is_half_deleted_first(mongodb_uri: str, store: Store) -> None:
    await _fill(store, "s")
    # It is decided, and nothing is deleted yet.
    assert not await do_until_stopped(mongodb_uri, 2, lambda engine: engine.delete_session("default", "s"))
    assert await store.old_sessions(1, 10) == [("default", "s")]


@pytest.mark.parametrize("queued", [False, True])
async def test_a_session_that_is_half_deleted_takes_no_run(
    mongodb_uri: str, store: Store, queued: bool
) -> None:
    await _fill(store, "s")
    assert not await do_until_stopped(mongodb_uri, 3, lambda engine: engine.delete_session("default", "s"))
    late = make_run("s", request_id="late")
    for reject_busy in (False, True):
        with pytest.raises(SessionBusyError, match="being deleted") as caught:
            await store.create_run(
                late,
                record(late),
                new_session=False,
                blobs=[make_blob(late)],
                queue=queued,
                reject_busy=reject_busy,
            )
        assert caught.value.facts == {"session_id": "s"}
        await _nothing_is_left(mongodb_uri, "other", [late])
    assert await store.find_request("default", "late") is None
    assert await store.free_sessions("default", 10) == []


async def test_a_deletion_that_is_refused_or_stops_before_it_is_decided_hinders_no_run(
    mongodb_uri: str, store: Store
) -> None:
    for writes in range(3):
        session_id = f"session {writes}"
        first = await create(store, make_run(session_id))
        following = await create(store, make_run(session_id))

        async def delete(engine: Store, session_id: str = session_id) -> None:
            with pytest.raises(SessionBusyError):
                await engine.delete_session("default", session_id)

        await do_until_stopped(mongodb_uri, writes, delete)
        await finish(store, first, "m1")
        begun = await store.next_queued("default", session_id)
        assert begun is not None
        assert begun.run_id == following.run_id
        last = await create(store, make_run(session_id))
        assert last.state == RUN_STATE_QUEUED
        await finish(store, begun, "m2")
        assert len(await positions(store, begun)) == 2


@pytest.mark.parametrize("queued", [False, True])
async def test_a_run_that_comes_before_a_deletion_is_decided_stops_it(
    mongodb_uri: str, store: Store, queued: bool
) -> None:
    await _fill(store, "s")
    async with slow_engine(mongodb_uri, "sessions", before=1) as (slow, held):
        deleting = asyncio.ensure_future(slow.delete_session("default", "s"))
        await held.reached.wait()
        run = make_run("s")
        await store.create_run(run, record(run), new_session=False, queue=queued)
        held.go_on.set()
        with pytest.raises(SessionBusyError):
            await deleting
    assert (await get(store, run)).state == (RUN_STATE_QUEUED if queued else RUN_STATE_RUNNING)
    assert len(await store.list_runs(RunFilter("default", "s"), None, 10)) == 3
    assert len(await positions(store, run)) == 2


async def test_a_run_that_is_stored_before_its_session_is_looked_at_is_in_the_way_or_taken_out(
    mongodb_uri: str, store: Store
) -> None:
    old = await _fill(store, "s")
    # The deletion is decided and stands still; then the run comes.
    async with slow_engine(mongodb_uri, "messages") as (slow, held):
        deleting = asyncio.ensure_future(slow.delete_session("default", "s"))
        await held.reached.wait()
        late = make_run("s")
        with pytest.raises(SessionBusyError):
            await create(store, late)
        held.go_on.set()
        assert await deleting == 4
    await _nothing_is_left(mongodb_uri, "s", [*old, late])


async def test_an_engine_that_stops_before_it_looks_at_a_deleted_session_leaves_a_run_that_begins(
    mongodb_uri: str, store: Store
) -> None:
    await _fill(store, "s")
    assert not await do_until_stopped(mongodb_uri, 3, lambda engine: engine.delete_session("default", "s"))
    run = make_run("s")
    assert not await do_until_stopped(mongodb_uri, 1, lambda engine: create(engine, run))
    assert (await get(store, run)).state == RUN_STATE_QUEUED
    assert await store.next_queued("default", "s") is None
    await store.delete_session("default", "s")
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert begun.run_id == run.run_id
    await finish(store, begun, "m", at=2)
    assert await positions(store, begun) == [(1, run.run_id, "m")]


async def test_of_many_that_delete_a_session_all_see_it_gone(mongodb_uri: str, store: Store) -> None:
    runs = await _fill(store, "s")
    counts = await asyncio.gather(*(store.delete_session("default", "s") for _ in range(5)))
    assert any(counts)
    await _nothing_is_left(mongodb_uri, "s", runs)


async def test_runs_and_deletions_of_one_moment_leave_whole_runs_alone(
    mongodb_uri: str, store: Store
) -> None:
    async with open_mongo_store(mongodb_uri) as other:
        for _ in range(10):
            runs = await _fill(store, "s")
            late = make_run("s")
            created, deleted = await asyncio.gather(
                create(other, late), store.delete_session("default", "s"), return_exceptions=True
            )
            if isinstance(created, RunRow):
                assert await store.last_sequence(late.run_id) == 1
                begun = created
                if created.state == RUN_STATE_QUEUED:
                    taken = await store.next_queued("default", "s")
                    assert taken is not None
                    begun = taken
                await finish(store, begun)
            else:
                assert isinstance(created, SessionBusyError)
                assert await store.get_run("default", late.run_id) is None
                assert await store.last_sequence(late.run_id) == 0
            assert isinstance(deleted, int | SessionBusyError)
            await store.delete_session("default", "s")
            await _nothing_is_left(mongodb_uri, "s", [*runs, late])
