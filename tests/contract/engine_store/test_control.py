"""What people want of a run: stored on it until its engine has heard."""

import asyncio

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_SUCCEEDED
from retinue_engine.stores.rows import NOW, RUN_STATE_QUEUED, RUN_STATE_RUNNING, Control, RunRow
from retinue_engine.stores.store import Store

from .rows import create, end_of, ends, finish, get, ids, make_run, record, suspend


async def _control(store: Store, run: RunRow, control: Control) -> RunRow:
    controlled = await store.control_run(run.namespace, run.run_id, control)
    assert controlled is not None
    assert controlled == await get(store, run)
    return controlled


async def test_a_cancel_is_stored_once_and_the_first_reason_stays(store: Store) -> None:
    run = await create(store, make_run())
    first = await _control(store, run, Control(cancel_reason="first"))
    assert (first.cancel_reason, first.attention_us) == ("first", NOW)
    assert await _control(store, run, Control(cancel_reason="second")) == first


async def test_a_cancel_without_a_reason_is_a_cancel(store: Store) -> None:
    run = await create(store, make_run())
    assert (await _control(store, run, Control(cancel_reason=""))).cancel_reason == ""
    assert (await _control(store, run, Control(cancel_reason="late"))).cancel_reason == ""


async def test_a_run_is_asked_to_pause_and_to_go_on(store: Store) -> None:
    run = await create(store, make_run())
    paused = await _control(store, run, Control(pause_reason="lunch"))
    assert (paused.pause_reason, paused.attention_us, paused.state) == ("lunch", NOW, RUN_STATE_RUNNING)
    assert (await _control(store, run, Control(pause_reason=""))).pause_reason == ""
    resumed = await _control(store, run, Control(resume=True))
    assert (resumed.pause_reason, resumed.cancel_reason, resumed.attention_us) == (None, None, NOW)


async def test_a_cancel_leaves_a_pause_and_a_pause_a_cancel(store: Store) -> None:
    run = await create(store, make_run())
    await _control(store, run, Control(pause_reason="lunch"))
    both = await _control(store, run, Control(cancel_reason="why"))
    assert (both.cancel_reason, both.pause_reason) == ("why", "lunch")
    resumed = await _control(store, run, Control(resume=True))
    assert (resumed.cancel_reason, resumed.pause_reason) == ("why", None)


@pytest.mark.parametrize(
    "control", [Control(cancel_reason="late"), Control(pause_reason="late"), Control(resume=True)]
)
async def test_a_finished_run_is_not_controlled(store: Store, control: Control) -> None:
    run = await create(store, make_run())
    await finish(store, run)
    ended = await get(store, run)
    assert await _control(store, run, control) == ended
    assert (ended.state, ended.cancel_reason, ended.attention_us) == (RUN_STATE_SUCCEEDED, None, None)


async def test_a_word_is_found_until_it_is_taken(store: Store) -> None:
    cancelled, paused, left_alone = [await create(store, make_run()) for _ in range(3)]
    assert await store.commanded_runs() == []
    await _control(store, cancelled, Control(cancel_reason="why"))
    await _control(store, paused, Control(pause_reason="lunch"))
    assert sorted(await store.commanded_runs()) == ids([cancelled, paused])
    (taken,) = await store.take_commands([cancelled.run_id])
    assert (taken.run_id, taken.cancel_reason, taken.attention_us) == (cancelled.run_id, "why", None)
    assert taken == await get(store, cancelled)
    assert await store.commanded_runs() == [paused.run_id]
    await _control(store, cancelled, Control(cancel_reason="again"))
    assert sorted(await store.commanded_runs()) == ids([cancelled, paused])
    assert (await get(store, left_alone)).attention_us is None


async def test_who_takes_words_again_reads_the_runs_again(store: Store) -> None:
    run = await create(store, make_run())
    await _control(store, run, Control(pause_reason="lunch"))
    first = await store.take_commands([run.run_id])
    # As after an answer that did not arrive.
    assert await store.take_commands([run.run_id]) == first
    assert first[0].pause_reason == "lunch"


async def test_words_for_many_runs_are_taken_together(store: Store) -> None:
    runs = await asyncio.gather(*(create(store, make_run()) for _ in range(250)))
    some = runs[::500]
    for run in some:
        await _control(store, run, Control(pause_reason=run.run_id))
    taken = {run.run_id: run.pause_reason for run in await store.take_commands(ids(runs))}
    assert len(taken) == len(runs)
    assert {run_id for run_id, reason in taken.items() if reason} == set(ids(some))
    assert await store.commanded_runs() == []
    assert await store.take_commands([]) == []


async def test_words_for_a_run_that_is_not_at_work_are_not_taken(store: Store) -> None:
    waiting, ended = [await create(store, make_run()) for _ in range(2)]
    await create(store, make_run("s"))
    queued = await create(store, make_run("s"))
    for run in (waiting, ended, queued):
        await _control(store, run, Control(cancel_reason="why"))
    await suspend(store, waiting)
    await store.append(record(ended, 2), ends(end_of(ended, state=RUN_STATE_CANCELLED)))
    assert await store.commanded_runs() == []
    assert await store.take_commands(ids([waiting, ended, queued])) == []
    assert ids(await store.due_runs(1, 10)) == [waiting.run_id]
    assert (await get(store, queued)).attention_us == NOW


async def test_a_word_for_a_queued_run_is_found_when_it_has_begun(store: Store) -> None:
    first = await create(store, make_run("s"))
    queued = await create(store, make_run("s"))
    assert (await _control(store, queued, Control(pause_reason="lunch"))).state == RUN_STATE_QUEUED
    assert await store.commanded_runs() == []
    await finish(store, first)
    begun = await store.next_queued("default", "s")
    assert begun is not None
    assert (begun.pause_reason, begun.state) == ("lunch", RUN_STATE_RUNNING)
    assert await store.commanded_runs() == [queued.run_id]


async def test_many_who_cancel_at_once_agree_on_the_first(store: Store) -> None:
    run = await create(store, make_run())
    await asyncio.gather(*(store.control_run("default", run.run_id, Control(str(n))) for n in range(10)))
    stored = await get(store, run)
    assert stored.cancel_reason in {str(number) for number in range(10)}
    assert (await _control(store, run, Control("late"))).cancel_reason == stored.cancel_reason
