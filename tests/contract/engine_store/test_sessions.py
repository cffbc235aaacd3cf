"""Sessions: one run at a time in the order in which they came, and every message once."""

import asyncio
from dataclasses import replace

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_SUCCEEDED
from retinue_engine.stores.rows import RUN_STATE_QUEUED, RUN_STATE_RUNNING, RunFilter
from retinue_engine.stores.store import Store

from .rows import LATER_US, create, end_of, ends, finish, ids, make_run, positions, record


async def test_twenty_at_once_in_a_session_run_one_after_another_in_order(store: Store) -> None:
    runs = [make_run("s") for _ in range(20)]
    created = await asyncio.gather(*(create(store, run) for run in runs))
    running = [run for run in created if run.state == RUN_STATE_RUNNING]
    assert len(running) == 1
    begun = running
    while True:
        assert ids(await store.list_runs(RunFilter("default", "s", (RUN_STATE_RUNNING,)), None, 9)) == [
            begun[-1].run_id
        ]
        assert await store.next_queued("default", "s") is None
        await finish(store, begun[-1], f"said by {begun[-1].run_id}")
        following = await store.next_queued("default", "s")
        if following is None:
            break
        assert following.state == RUN_STATE_RUNNING
        begun.append(following)
    waited = [run.run_id for run in runs if run.run_id != begun[0].run_id]
    assert ids(begun) == [begun[0].run_id, *waited]
    assert await positions(store, runs[0]) == [
        (position, run.run_id, f"said by {run.run_id}") for position, run in enumerate(begun, 1)
    ]


async def test_of_many_that_let_the_next_begin_one_gets_it(store: Store) -> None:
    first = await create(store, make_run("s"))
    waiting = await create(store, make_run("s"))
    assert waiting.state == RUN_STATE_QUEUED
    await finish(store, first)
    begun = await asyncio.gather(*(store.next_queued("default", "s") for _ in range(10)))
    assert ids([run for run in begun if run is not None]) == [waiting.run_id]


async def test_who_comes_to_a_free_session_does_not_overtake_who_waits(store: Store) -> None:
    first = await create(store, make_run("s"))
    waiting = await create(store, make_run("s"))
    await finish(store, first)
    late = await create(store, make_run("s"))
    assert late.state == RUN_STATE_QUEUED
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert begun.run_id == waiting.run_id


async def test_an_end_sets_state_result_and_messages_and_frees_the_session(store: Store) -> None:
    run = await create(store, make_run("s"))
    await store.append(record(run, 2), ends(end_of(run, "m1", "m2", end_us=77)))
    stored = await store.get_run("default", run.run_id)
    assert stored is not None
    assert (stored.state, stored.end_us) == (RUN_STATE_SUCCEEDED, 77)
    assert stored.result == end_of(run).result
    messages = await store.list_messages("default", "s", 0, None)
    assert [(each.position, each.message_json, each.time_us) for each in messages] == [
        (1, "m1", 77),
        (2, "m2", 77),
    ]
    session = await store.get_session("default", "s")
    assert session is not None
    assert (session.message_count, session.update_us) == (2, 77)
    assert (await create(store, make_run("s"))).state == RUN_STATE_RUNNING


async def test_an_end_that_is_written_again_changes_nothing(store: Store) -> None:
    run = await create(store, make_run("s"))
    for _ in range(2):
        await finish(store, run, "m1", "m2")
    following = await create(store, make_run("s"))
    await finish(store, run, "m1", "m2")
    assert await store.next_queued("default", "s") is None
    await finish(store, following, "m3")
    await asyncio.gather(*(finish(store, following, "m3") for _ in range(5)))
    assert await positions(store, run) == [
        (1, run.run_id, "m1"),
        (2, run.run_id, "m2"),
        (3, following.run_id, "m3"),
    ]
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.message_count == 3


async def test_an_end_that_several_write_at_once_is_written_once(store: Store) -> None:
    run = await create(store, make_run("s"))
    await asyncio.gather(*(finish(store, run, "m1", "m2") for _ in range(5)))
    assert await positions(store, run) == [(1, run.run_id, "m1"), (2, run.run_id, "m2")]


async def test_messages_come_after_a_position_and_to_a_limit(store: Store) -> None:
    run = await create(store, make_run("s"))
    await finish(store, run, *(f"m{number}" for number in range(1, 11)))
    found = await store.list_messages("default", "s", 3, 4)
    assert [each.position for each in found] == [4, 5, 6, 7]
    assert await store.list_messages("default", "s", 10, None) == []


async def test_a_run_that_is_cancelled_while_it_waits_leaves_the_others_in_order(store: Store) -> None:
    first = await create(store, make_run("s"))
    cancelled = await create(store, make_run("s"))
    last = await create(store, make_run("s"))
    claim = record(cancelled, 2, writer="canceller")
    await store.claim(cancelled, claim, LATER_US)
    row = replace(cancelled, writer="canceller")
    await store.append(record(row, 3), ends(end_of(row, state=RUN_STATE_CANCELLED)))
    # The one at work still holds the session.
    assert await store.next_queued("default", "s") is None
    await finish(store, first, "m1")
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert begun.run_id == last.run_id
    await finish(store, begun, "m2")
    assert [position for position, *_ in await positions(store, first)] == [1, 2]


async def test_a_run_at_work_that_nobody_keeps_is_abandoned(store: Store) -> None:
    run = await create(store, make_run("s", lease_us=5))
    waiting = await create(store, make_run("s", lease_us=5))
    assert waiting.state == RUN_STATE_QUEUED
    assert ids(await store.abandoned_runs(LATER_US, 10)) == [run.run_id]
    await finish(store, run)
    assert await store.abandoned_runs(LATER_US, 10) == []


async def test_the_oldest_abandoned_runs_come_first_and_no_more_than_asked_for(store: Store) -> None:
    runs = [await create(store, make_run(lease_us=5), new_session=True) for _ in range(5)]
    assert ids(await store.abandoned_runs(LATER_US, 3)) == ids(runs[:3])
