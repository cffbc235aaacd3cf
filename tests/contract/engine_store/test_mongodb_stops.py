"""An engine that stops between any two of its writes: what it leaves is put right by the others."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_SUCCEEDED
from retinue.errors import ClaimLostError, SessionBusyError, StoreUnavailableError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Effects,
    JournalRecord,
    RunFilter,
    RunRow,
    SessionTakenError,
    Totals,
)
from retinue_engine.stores.store import Store

from .rows import LATER_US, create, end_of, ends, ids, make_run, positions, record
from .stopping import Doing, do_until_stopped, slow_engine

MOST_WRITES = 12
_ENDS = (b"end", b"cancelled")
"""What the last records of journals hold here."""


def _last(run: RunRow, first: int, data: bytes = b"end") -> JournalRecord:
    return record(run, first, data=data)


async def _end(store: Store, run: RunRow) -> None:
    """Write a run's end as its engine does; again, where its journal has one."""
    records = await store.read_journal(run.run_id, 0, 10**6)
    last = records[-1] if records and records[-1].data in _ENDS else _last(run, len(records) + 1)
    await store.append(last, _ending(run, last.data))


def _ending(run: RunRow, data: bytes) -> Effects:
    """What follows from a run's last record; one that is cancelled has said nothing."""
    totals = Totals(runs=1, turns=2)
    if data == b"end":
        return ends(end_of(run, *_said(run), totals=totals))
    return ends(end_of(run, state=RUN_STATE_CANCELLED, totals=totals))


def _said(run: RunRow) -> list[str]:
    return [f"{run.run_id} asked", f"{run.run_id} answered"]


async def _sweep(store: Store) -> None:
    """Do what every engine does now and then: take over what nobody works on, begin what can begin."""
    for run in await store.abandoned_runs(LATER_US, 100):
        records = await store.read_journal(run.run_id, 0, 10**6)
        if records and records[-1].data in _ENDS:
            await _end(store, run)
        else:
            run.writer = f"taken over at {len(records) + 1}"
            await store.claim(run, record(run, len(records) + 1), 5)
    for free in await store.free_sessions("default", 100):
        await store.next_queued("default", free.session_id)


async def _drain(store: Store, session_id: str) -> None:
    """Let the runs of a session come to their end, one after another."""
    for _ in range(10):
        await _sweep(store)
        runs = await store.list_runs(RunFilter("default", session_id), None, 100)
        working = [run for run in runs if run.state == RUN_STATE_RUNNING]
        assert len(working) <= 1
        if all(run.state in FINAL_STATES for run in runs):
            return
        for run in working:
            await _end(store, run)
    raise AssertionError(f"runs of {session_id} are stuck: {runs}")


async def _check(store: Store, session_id: str) -> list[str]:
    """Assert that a session and its runs fit together; the runs, the oldest first."""
    runs = await store.list_runs(RunFilter("default", session_id), None, 100)
    assert {run.state for run in runs} <= {RUN_STATE_SUCCEEDED, RUN_STATE_CANCELLED}
    for run in runs:
        records = await store.read_journal(run.run_id, 0, 10**6)
        assert [each.first_sequence for each in records] == [*range(1, len(records) + 1)]
        assert [each.data in _ENDS for each in records] == [False] * (len(records) - 1) + [True]
    session = await store.get_session("default", session_id)
    if session is None:
        assert not runs
        return []
    messages = await positions(store, make_run(session_id))
    assert session.totals == Totals(runs=len(runs), turns=2 * len(runs))
    assert [position for position, *_ in messages] == [*range(1, session.message_count + 1)]
    said = [text for *_, text in messages]
    succeeded = [run for run in runs if run.state == RUN_STATE_SUCCEEDED]
    assert sorted(said) == sorted(text for run in succeeded for text in _said(run))
    assert said == [
        text for run_id in dict.fromkeys(each for _, each, _ in messages) for text in _texts(run_id)
    ]
    return ids(runs)[::-1]


def _texts(run_id: str) -> list[str]:
    return [f"{run_id} asked", f"{run_id} answered"]


@pytest.fixture
async def store(mongodb_uri: str) -> AsyncIterator[Store]:
    """Another engine."""
    async with open_mongo_store(mongodb_uri) as opened:
        yield opened


@pytest.fixture(params=["tried again", "taken over", "taken over, then tried again"])
def after(request: pytest.FixtureRequest) -> str:
    """What happens after the stop; the last is an engine that was not dead, only slow."""
    return str(request.param)


async def _again(store: Store, doing: Doing) -> None:
    with suppress(ClaimLostError, SessionBusyError, SessionTakenError, StoreUnavailableError):
        await doing(store)


async def _put_right(store: Store, after: str, doing: Doing, session_id: str) -> None:
    if after == "tried again":
        await _again(store, doing)
    await _drain(store, session_id)
    if after.endswith("then tried again"):
        await _again(store, doing)
        await _drain(store, session_id)


Scene = Callable[[Store, str], Awaitable[Doing]]


async def _accept_with_a_new_session(store: Store, session_id: str) -> Doing:
    run = make_run(session_id, lease_us=5)
    return lambda engine: create(engine, run, new_session=True)


async def _accept_in_a_session(store: Store, session_id: str) -> Doing:
    run = make_run(session_id, lease_us=5, request_id=f"request of {session_id}")
    return lambda engine: create(engine, run)


async def _accept_in_a_used_session(store: Store, session_id: str) -> Doing:
    await _end(store, await create(store, make_run(session_id)))
    return await _accept_in_a_session(store, session_id)


async def _accept_in_a_busy_session(store: Store, session_id: str) -> Doing:
    await create(store, make_run(session_id, lease_us=5))
    return await _accept_in_a_session(store, session_id)


async def _accept_into_the_queue(store: Store, session_id: str) -> Doing:
    run = make_run(session_id, lease_us=5, request_id=f"request of {session_id}")
    return lambda engine: engine.create_run(run, record(run), new_session=False, queue=True)


async def _accept_into_the_queue_with_a_new_session(store: Store, session_id: str) -> Doing:
    run = make_run(session_id, lease_us=5)
    return lambda engine: engine.create_run(run, record(run), new_session=True, queue=True)


async def _accept_in_a_free_session(store: Store, session_id: str) -> Doing:
    await _end(store, await create(store, make_run(session_id)))
    run = make_run(session_id, lease_us=5, request_id=f"request of {session_id}")
    return lambda engine: engine.create_run(run, record(run), new_session=False, reject_busy=True)


async def _accept_into_the_queue_of_a_free_session(store: Store, session_id: str) -> Doing:
    run = make_run(session_id, lease_us=5)
    return lambda engine: engine.create_run(run, record(run), new_session=False, queue=True, reject_busy=True)


async def _end_a_run(store: Store, session_id: str) -> Doing:
    run = await create(store, make_run(session_id, lease_us=5))
    return lambda engine: engine.append(_last(run, 2), _ending(run, b"end"))


async def _end_a_run_before_others(store: Store, session_id: str) -> Doing:
    doing = await _end_a_run(store, session_id)
    for _ in range(2):
        await create(store, make_run(session_id, lease_us=5))
    return doing


async def _begin_the_next(store: Store, session_id: str) -> Doing:
    run = await create(store, make_run(session_id, lease_us=5))
    for _ in range(2):
        await create(store, make_run(session_id, lease_us=5))
    await _end(store, run)
    return lambda engine: engine.next_queued("default", session_id)


async def _end_a_queued_run(store: Store, session_id: str) -> Doing:
    await create(store, make_run(session_id, lease_us=5))
    queued = await create(store, make_run(session_id, lease_us=5))
    await store.claim(queued, record(queued, 2, writer="canceller"), 5)
    queued.writer = "canceller"
    return lambda engine: engine.append(_last(queued, 3, b"cancelled"), _ending(queued, b"cancelled"))


async def _claim(store: Store, session_id: str) -> Doing:
    run = await create(store, make_run(session_id, lease_us=5))
    return lambda engine: engine.claim(run, record(run, 2, writer="claimer"), 5)


@pytest.mark.parametrize(
    "scene",
    [
        _accept_with_a_new_session,
        _accept_in_a_session,
        _accept_in_a_used_session,
        _accept_in_a_busy_session,
        _accept_in_a_free_session,
        _accept_into_the_queue,
        _accept_into_the_queue_of_a_free_session,
        _accept_into_the_queue_with_a_new_session,
        _end_a_run,
        _end_a_run_before_others,
        _end_a_queued_run,
        _begin_the_next,
        _claim,
    ],
    ids=lambda scene: scene.__name__.strip("_"),
)
async def test_an_engine_may_stop_after_any_write(
    mongodb_uri: str, store: Store, scene: Scene, after: str
) -> None:
    for writes in itertools.count():
        assert writes <= MOST_WRITES
        session_id = f"session {writes}"
        doing = await scene(store, session_id)
        finished = await do_until_stopped(mongodb_uri, writes, doing)
        before = ids(await store.list_runs(RunFilter("default", session_id), None, 100))[::-1]
        # Somebody else wants the session too.
        next_run = await create(store, make_run(session_id, lease_us=5))
        await _put_right(store, after, doing, session_id)
        ran = await _check(store, session_id)
        assert set(ran) >= {*before, next_run.run_id}
        if finished:
            return


async def test_a_session_counts_what_its_ended_run_said_though_nobody_comes_after_it(
    mongodb_uri: str, store: Store
) -> None:
    for writes in itertools.count():
        session_id = f"session {writes}"
        doing = await _end_a_run(store, session_id)
        finished = await do_until_stopped(mongodb_uri, writes, doing)
        await _drain(store, session_id)
        session = await store.get_session("default", session_id)
        assert session is not None
        assert session.message_count == 2
        assert len(await store.list_messages("default", session_id, 0, None)) == 2
        if finished:
            return


async def test_a_creator_that_is_very_late_finds_its_new_session_taken(
    mongodb_uri: str, store: Store
) -> None:
    late = make_run("s", lease_us=5, request_id="late")
    async with slow_engine(mongodb_uri, "runs") as (slow, held):
        creating = asyncio.ensure_future(create(slow, late, new_session=True))
        await held.reached.wait()
        # Its session is stored, itself not yet; another run is given the session, which it has left.
        other = await create(store, make_run("s"))
        assert other.state == RUN_STATE_RUNNING
        held.go_on.set()
        with pytest.raises(SessionTakenError):
            await creating
    assert await store.get_run("default", late.run_id) is None
    assert await store.find_request("default", "late") is None
    assert ids(await store.list_runs(RunFilter("default"), None, 10)) == [other.run_id]
    await _end(store, other)
    assert (await create(store, make_run("s"))).state == RUN_STATE_RUNNING


async def test_who_is_late_to_let_go_of_a_session_does_not_take_it_from_the_next(
    mongodb_uri: str, store: Store
) -> None:
    run = await create(store, make_run("s"))
    following = await create(store, make_run("s"))
    # It counts its messages first.
    async with slow_engine(mongodb_uri, "sessions", before=1) as (slow, held):
        ending = slow.append(_last(run, 2), _ending(run, b"end"))
        await held.reached.wait()
        begun = await store.next_queued("default", "s")
        assert begun is not None
        assert begun.run_id == following.run_id
        held.go_on.set()
        await ending
    assert (await create(store, make_run("s"))).state == RUN_STATE_QUEUED
    await _drain(store, "s")
    await _check(store, "s")


async def test_who_is_late_to_give_a_turn_gives_none(mongodb_uri: str, store: Store) -> None:
    runs = [await create(store, make_run("s")) for _ in range(3)]
    await _end(store, runs[0])
    async with slow_engine(mongodb_uri, "sessions") as (slow, held):
        giving = asyncio.ensure_future(slow.next_queued("default", "s"))
        await held.reached.wait()
        for run in runs[1:]:
            begun = await store.next_queued("default", "s")
            assert begun is not None
            assert begun.run_id == run.run_id
            if run is runs[1]:
                await _end(store, begun)
        held.go_on.set()
        assert await giving is None
    assert (await create(store, make_run("s"))).state == RUN_STATE_QUEUED
    await _drain(store, "s")
    await _check(store, "s")


async def test_a_new_session_whose_run_is_on_its_way_is_left_alone(mongodb_uri: str, store: Store) -> None:
    run = make_run("s")
    assert not await do_until_stopped(mongodb_uri, 1, lambda engine: create(engine, run, new_session=True))
    waiting = await create(store, make_run("s"))
    assert waiting.state == RUN_STATE_QUEUED
    assert await store.next_queued("default", "s") is None
    assert await store.free_sessions("default", 10) == []
    assert (await create(store, run, new_session=True)).state == RUN_STATE_RUNNING
