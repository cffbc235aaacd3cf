"""The queue: who waits for a free place, in which order sessions are served, and who waited too long."""

import asyncio

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED
from retinue.errors import SessionBusyError
from retinue_engine.stores.rows import (
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    QueuedSession,
    RunFilter,
    RunRow,
    SessionTakenError,
)
from retinue_engine.stores.store import Store

from .rows import LATER_US, create, end_of, ends, finish, get, ids, make_run, record, suspend


async def _queue(
    store: Store, run: RunRow, *, new_session: bool = False, reject_busy: bool = False
) -> RunRow:
    return await store.create_run(
        run, record(run), new_session=new_session, queue=True, reject_busy=reject_busy
    )


async def _reject(store: Store, run: RunRow) -> RunRow:
    return await store.create_run(run, record(run), new_session=False, reject_busy=True)


async def _free(store: Store, namespace: str = "default", limit: int = 100) -> list[str]:
    return [each.session_id for each in await store.free_sessions(namespace, limit)]


@pytest.mark.parametrize("new_session", [True, False])
async def test_a_run_that_is_queued_waits_in_a_session_that_is_free(store: Store, new_session: bool) -> None:
    run = await _queue(store, make_run("s"), new_session=new_session)
    assert run.state == RUN_STATE_QUEUED
    assert await get(store, run) == run
    assert await store.last_sequence(run.run_id) == 1
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.active_run_id is None
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert (begun.run_id, begun.state) == (run.run_id, RUN_STATE_RUNNING)
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.active_run_id == run.run_id


async def test_a_run_that_is_queued_draws_a_new_session_or_is_refused(store: Store) -> None:
    await _queue(store, make_run("s"), new_session=True)
    with pytest.raises(SessionTakenError):
        await _queue(store, make_run("s"), new_session=True)
    assert await store.count_queued() == 1


async def test_who_comes_after_a_queued_run_does_not_overtake_it(store: Store) -> None:
    first = await _queue(store, make_run("s"))
    second = await create(store, make_run("s"))
    assert second.state == RUN_STATE_QUEUED
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert begun.run_id == first.run_id
    assert await store.next_queued("default", "s") is None


async def test_a_known_request_is_not_queued_again(store: Store) -> None:
    run = await create(store, make_run(request_id="r"))
    again = await _queue(store, make_run(request_id="r"))
    assert again == run
    assert await store.count_queued() == 0


async def test_free_sessions_come_by_priority_and_then_by_age(store: Store) -> None:
    for session_id, priority in (("low", -5), ("old", 0), ("new", 0), ("high", 7)):
        await _queue(store, make_run(session_id, priority=priority), new_session=True)
    found = await store.free_sessions("default", 100)
    assert [(each.session_id, each.priority) for each in found] == [
        ("high", 7),
        ("old", 0),
        ("new", 0),
        ("low", -5),
    ]
    oldest = (await store.list_runs(RunFilter("default", session_id="high"), None, 1))[0]
    assert found[0] == QueuedSession("default", "high", 7, oldest.create_us)
    assert await _free(store, limit=2) == ["high", "old"]


async def test_the_priority_of_a_session_is_that_of_its_oldest_run(store: Store) -> None:
    first = await _queue(store, make_run("patient", priority=1))
    await _queue(store, make_run("patient", priority=9))
    await _queue(store, make_run("other", priority=5))
    assert await _free(store) == ["other", "patient"]
    begun = await store.next_queued("default", "patient")
    assert begun is not None
    assert begun.run_id == first.run_id
    assert await _free(store) == ["other"]
    await finish(store, begun)
    assert await _free(store) == ["patient", "other"]


async def test_a_session_keeps_the_order_of_its_runs_whatever_their_priority(store: Store) -> None:
    runs = [await _queue(store, make_run("s", priority=priority)) for priority in (0, 9, 5)]
    begun = []
    while (run := await store.next_queued("default", "s")) is not None:
        begun.append(run)
        await finish(store, run)
    assert ids(begun) == ids(runs)


async def test_only_sessions_that_are_free_and_have_runs_waiting_are_found(store: Store) -> None:
    for name in ("free", "busy", "empty", "suspended"):
        run = await create(store, make_run(name), new_session=True)
        if name != "empty":
            await create(store, make_run(name, priority=3))
        if name == "suspended":
            await suspend(store, run)
        elif name != "busy":
            await finish(store, run)
    assert await _free(store) == ["free"]
    await store.next_queued("default", "free")
    assert await _free(store) == []


async def test_queues_of_namespaces_are_apart(store: Store) -> None:
    assert await store.queued_namespaces() == []
    for namespace, count in (("a", 3), ("b", 1), ("c", 0)):
        await create(store, make_run("busy", namespace=namespace))
        for number in range(count):
            await _queue(store, make_run(f"{namespace}{number}", namespace=namespace))
    assert sorted(await store.queued_namespaces()) == ["a", "b"]
    assert [await store.count_queued(each) for each in ("a", "b", "c", None)] == [3, 1, 0, 4]
    assert await _free(store, "a") == ["a0", "a1", "a2"]
    assert await _free(store, "b") == ["b0"]
    assert await _free(store, "c") == []
    begun = await store.next_queued("b", "b0")
    assert begun is not None
    assert await store.queued_namespaces() == ["a"]
    assert [await store.count_queued(each) for each in ("a", "b", None)] == [3, 0, 3]


async def test_a_busy_session_rejects_a_run_that_does_not_want_to_wait(store: Store) -> None:
    first = await create(store, make_run("s"))
    late = make_run("s", request_id="late")
    with pytest.raises(SessionBusyError) as caught:
        await _reject(store, late)
    assert caught.value.facts == {"session_id": "s", "run_id": first.run_id}
    assert await store.get_run("default", late.run_id) is None
    assert await store.find_request("default", "late") is None
    assert await store.last_sequence(late.run_id) == 0
    await finish(store, first)
    accepted = await _reject(store, make_run("s", request_id="late"))
    assert accepted.state == RUN_STATE_RUNNING


async def test_a_session_whose_run_is_suspended_or_queued_is_busy(store: Store) -> None:
    await suspend(store, await create(store, make_run("suspended")))
    await _queue(store, make_run("queued"))
    for session_id in ("suspended", "queued"):
        with pytest.raises(SessionBusyError):
            await _reject(store, make_run(session_id))
        with pytest.raises(SessionBusyError):
            await _queue(store, make_run(session_id), reject_busy=True)
    assert len(await store.list_runs(RunFilter("default"), None, 10)) == 2


async def test_a_free_session_rejects_nobody(store: Store) -> None:
    for session_id in ("new", "known"):
        if session_id == "known":
            await finish(store, await create(store, make_run("known")))
        queued = await _queue(store, make_run(session_id), reject_busy=True)
        assert queued.state == RUN_STATE_QUEUED


async def test_a_known_request_is_found_though_its_session_is_busy(store: Store) -> None:
    run = await _reject(store, make_run("s", request_id="r"))
    assert await _reject(store, make_run("s", request_id="r")) == run


async def test_of_many_that_do_not_want_to_wait_one_begins(store: Store) -> None:
    results = await asyncio.gather(
        *(_reject(store, make_run("s")) for _ in range(10)), return_exceptions=True
    )
    begun = [each for each in results if isinstance(each, RunRow)]
    assert [run.state for run in begun] == [RUN_STATE_RUNNING]
    assert sum(isinstance(each, SessionBusyError) for each in results) == 9
    assert ids(await store.list_runs(RunFilter("default"), None, 100)) == ids(begun)


async def test_queued_runs_whose_time_is_over_are_found(store: Store) -> None:
    early = await _queue(store, make_run(expire_us=100))
    late = await _queue(store, make_run(expire_us=200))
    await _queue(store, make_run())
    begun = await _queue(store, make_run("begun", expire_us=50))
    await store.next_queued("default", "begun")
    ended = await _queue(store, make_run(expire_us=50))
    await store.claim(ended, record(ended, 2, writer="new"), LATER_US)
    ended.writer = "new"
    await store.append(record(ended, 3), ends(end_of(ended, state=RUN_STATE_CANCELLED)))
    assert (await get(store, begun)).state == RUN_STATE_RUNNING
    assert await store.expired_runs(99, 10) == []
    assert ids(await store.expired_runs(100, 10)) == [early.run_id]
    assert sorted(ids(await store.expired_runs(LATER_US, 10))) == ids([early, late])
    assert len(await store.expired_runs(LATER_US, 1)) == 1


async def test_a_queued_run_that_ends_frees_no_session_and_is_not_counted(store: Store) -> None:
    holder = await create(store, make_run("s"))
    queued = await _queue(store, make_run("s"))
    await store.claim(queued, record(queued, 2, writer="new"), LATER_US)
    assert (await get(store, queued)).state == RUN_STATE_QUEUED
    queued.writer = "new"
    await finish(store, queued, at=3)
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.active_run_id == holder.run_id
    assert await store.count_queued() == 0
    assert await store.queued_namespaces() == []
