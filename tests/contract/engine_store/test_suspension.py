"""Trees that wait or are paused: they keep their session, and are due by a word or when time is over."""

import asyncio

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_SUCCEEDED
from retinue.errors import ClaimLostError
from retinue_engine.stores.rows import (
    NOW,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    RUN_STATE_WAITING,
    Control,
    Effects,
    RunFilter,
    Suspension,
)
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import (
    LATER_US,
    create,
    end_of,
    ends,
    finish,
    get,
    ids,
    make_child,
    make_input,
    make_run,
    record,
    suspend,
)


@pytest.mark.parametrize("state", [RUN_STATE_WAITING, RUN_STATE_PAUSED])
async def test_a_suspended_tree_waits_with_its_children_that_have_not_ended(store: Store, state: int) -> None:
    root = await create(store, make_run())
    ended, open_one = make_child(root, 1), make_child(root, 2)
    other = await create(store, make_run())
    await store.append(record(root, 2), Effects(children=[ended, open_one], outcomes=[end_of(ended)]))
    if state == RUN_STATE_PAUSED:
        await store.control_run("default", root.run_id, Control(pause_reason="lunch"))
        await store.take_commands([root.run_id])
    await suspend(store, root, 3, until_us=7, state=state)
    stored = await get(store, root)
    assert (stored.state, stored.attention_us) == (state, 7)
    assert [(await get(store, run)).state for run in (ended, open_one)] == [RUN_STATE_SUCCEEDED, state]
    assert (await get(store, other)).state == RUN_STATE_RUNNING
    assert ids(await store.list_runs(RunFilter("default", states=(state,)), None, 10)) == [root.run_id]


async def test_a_child_that_begins_with_the_suspension_waits_too(store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    suspension = Suspension(root.run_id, RUN_STATE_WAITING, None)
    await store.append(record(root, 2), Effects(children=[child], suspension=suspension))
    assert (await get(store, child)).state == RUN_STATE_WAITING


async def test_a_suspended_run_keeps_its_session(store: Store) -> None:
    root = await create(store, make_run("s", lease_us=5))
    before = await create(store, make_run("s"))
    await suspend(store, root)
    after = await create(store, make_run("s"))
    assert (before.state, after.state) == (RUN_STATE_QUEUED, RUN_STATE_QUEUED)
    assert await store.next_queued("default", "s") is None
    assert await store.free_sessions("default", 10) == []
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.active_run_id == root.run_id


async def test_a_suspended_run_is_not_abandoned(store: Store) -> None:
    root = await create(store, make_run(lease_us=5))
    await suspend(store, root)
    assert await store.abandoned_runs(LATER_US, 10) == []


async def test_suspended_runs_are_due_when_their_time_has_come_the_most_urgent_first(store: Store) -> None:
    late, early, never, commanded = [await create(store, make_run()) for _ in range(4)]
    for run, until_us in ((late, 300), (early, 200), (never, None), (commanded, 400)):
        await suspend(store, run, until_us=until_us)
    await store.control_run("default", commanded.run_id, Control(resume=True))
    assert ids(await store.due_runs(1, 10)) == [commanded.run_id]
    assert ids(await store.due_runs(199, 10)) == [commanded.run_id]
    assert ids(await store.due_runs(200, 10)) == ids([commanded, early])
    assert ids(await store.due_runs(LATER_US, 10)) == ids([commanded, early, late])
    assert ids(await store.due_runs(LATER_US, 2)) == ids([commanded, early])


async def test_a_run_at_work_is_never_due(store: Store) -> None:
    run = await create(store, make_run())
    await store.control_run("default", run.run_id, Control(pause_reason="wait"))
    assert await store.due_runs(LATER_US, 10) == []


@pytest.mark.parametrize("until_us", [None, 300])
async def test_a_word_that_comes_before_the_suspension_is_not_lost(
    store: Store, until_us: int | None
) -> None:
    run = await create(store, make_run())
    await store.control_run("default", run.run_id, Control(cancel_reason="why"))
    await suspend(store, run, until_us=until_us)
    due = await store.due_runs(1, 10)
    assert ids(due) == [run.run_id]
    assert (due[0].attention_us, due[0].cancel_reason) == (NOW, "why")


async def test_an_answer_that_comes_before_the_suspension_is_not_lost(store: Store) -> None:
    run = await create(store, make_run())
    asked = make_input(run)
    await store.append(record(run, 2), Effects(inputs=[asked]))
    await store.answer_input("default", asked.input_id, b"yes")
    await suspend(store, run, 3, until_us=300)
    assert ids(await store.due_runs(1, 10)) == [run.run_id]


async def test_who_claims_a_suspended_tree_sets_it_running(store: Store) -> None:
    root = await create(store, make_run())
    ended, open_one = make_child(root, 1), make_child(root, 2)
    await store.append(record(root, 2), Effects(children=[ended, open_one], outcomes=[end_of(ended)]))
    await suspend(store, root, 3, until_us=7)
    await store.control_run("default", root.run_id, Control(resume=True))
    await store.claim(root, record(root, 4, writer="new"), LATER_US)
    stored = await get(store, root)
    assert (stored.state, stored.attention_us, stored.writer) == (RUN_STATE_RUNNING, None, "new")
    assert [(await get(store, run)).state for run in (ended, open_one)] == [
        RUN_STATE_SUCCEEDED,
        RUN_STATE_RUNNING,
    ]
    assert await store.due_runs(LATER_US, 10) == []
    assert await store.commanded_runs() == []


async def test_of_many_that_claim_a_suspended_tree_one_gets_it(store: Store) -> None:
    root = await create(store, make_run())
    await suspend(store, root)
    claims = [record(root, 3, writer=f"claim-{number}", data=b"%d" % number) for number in range(5)]
    results = await asyncio.gather(
        *(store.claim(root, each, LATER_US) for each in claims), return_exceptions=True
    )
    won = [each.writer for each, result in zip(claims, results, strict=True) if result is None]
    assert len(won) == 1
    assert sum(isinstance(result, ClaimLostError) for result in results) == 4
    assert (await get(store, root)).writer == won[0]


async def test_a_run_at_work_that_is_claimed_keeps_the_word_that_nobody_heard(store: Store) -> None:
    run = await create(store, make_run())
    await store.control_run("default", run.run_id, Control(cancel_reason="why"))
    await store.claim(run, record(run, 2, writer="new"), LATER_US)
    assert await store.commanded_runs() == [run.run_id]


async def test_a_suspension_that_is_written_again_after_a_claim_suspends_nothing(store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    await suspend(store, root, 3, until_us=7)
    await store.claim(root, record(root, 4, writer="new"), LATER_US)
    await suspend(store, root, 3, until_us=7)
    assert (await get(store, root)).attention_us is None
    assert [(await get(store, run)).state for run in (root, child)] == [RUN_STATE_RUNNING] * 2


async def test_who_was_taken_over_suspends_nothing(store: Store) -> None:
    root = await create(store, make_run())
    await store.claim(root, record(root, 2, writer="new"), LATER_US)
    with pytest.raises(ClaimLostError):
        await suspend(store, root)
    assert (await get(store, root)).state == RUN_STATE_RUNNING


async def test_a_tree_is_suspended_and_taken_up_again_and_again(store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    for round_number in range(3):
        at = 3 + 2 * round_number
        await suspend(store, root, at, until_us=100 + round_number)
        assert ids(await store.due_runs(100 + round_number, 10)) == [root.run_id]
        assert await store.due_runs(99 + round_number, 10) == []
        root.writer = f"writer-{round_number}"
        await store.claim(root, record(root, at + 1), LATER_US)
        assert (await get(store, child)).state == RUN_STATE_RUNNING
    await finish(store, root, "m", at=9)
    assert (await get(store, root)).state == RUN_STATE_SUCCEEDED


async def test_a_suspended_run_can_end_and_lets_its_session_go(store: Store) -> None:
    root = await create(store, make_run("s"))
    following = await create(store, make_run("s"))
    await suspend(store, root, until_us=7)
    await store.append(record(root, 3), ends(end_of(root, state=RUN_STATE_CANCELLED)))
    assert (await get(store, root)).state == RUN_STATE_CANCELLED
    assert await store.due_runs(LATER_US, 10) == []
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert begun.run_id == following.run_id


async def test_an_ended_run_is_not_suspended(store: Store) -> None:
    root = await create(store, make_run())
    await suspend(store, root)
    root.writer = "new"
    await store.claim(root, record(root, 3), LATER_US)
    await finish(store, root, at=4)
    ended = await get(store, root)
    await store.append(record(root, 4), Effects(suspension=Suspension(root.run_id, RUN_STATE_WAITING, 5)))
    assert await get(store, root) == ended


async def test_reopening_keeps_what_waits(open_store: OpenStore) -> None:
    async with open_store() as store:
        root = await create(store, make_run())
        child = make_child(root)
        await store.append(record(root, 2), Effects(children=[child]))
        await suspend(store, root, 3, until_us=7)
        kept = [await get(store, run) for run in (root, child)]
    async with open_store() as store:
        assert [await get(store, run) for run in (root, child)] == kept
        assert ids(await store.due_runs(7, 10)) == [root.run_id]
