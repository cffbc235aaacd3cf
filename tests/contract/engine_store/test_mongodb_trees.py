"""An engine that stops while it writes what follows from a record: whoever takes over writes it again."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from retinue.engine.v1.input_pb2 import INPUT_STATE_ANSWERED, INPUT_STATE_CLOSED
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue.errors import ClaimLostError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import (
    NOW,
    RUN_STATE_RUNNING,
    RUN_STATE_WAITING,
    Effects,
    JournalRecord,
    RunRow,
    Suspension,
    Totals,
)
from retinue_engine.stores.store import Store

from .rows import (
    LATER_US,
    create,
    end_of,
    ends,
    get,
    make_blob,
    make_child,
    make_input,
    make_run,
    positions,
    record,
    suspend,
)
from .stopping import do_until_stopped, slow_engine

MOST_WRITES = 12
_STEPS = (b"begin", b"wait", b"go on", b"end")
_USED = Totals(runs=1, turns=3)


@pytest.fixture
async def store(mongodb_uri: str) -> AsyncIterator[Store]:
    """Another engine."""
    async with open_mongo_store(mongodb_uri) as opened:
        yield opened


def _effects(root: RunRow, data: bytes) -> Effects | None:
    """What follows from a record, as each engine derives it."""
    child, other = make_child(root, 1), make_child(root, 2)
    asked, open_one = make_input(root, 1), make_input(root, 2)
    match data:
        case b"begin":
            return Effects(children=[child, other], inputs=[asked, open_one], blobs=[make_blob(root)])
        case b"wait":
            return Effects(
                received=[asked.input_id],
                outcomes=[end_of(child)],
                suspension=Suspension(root.run_id, RUN_STATE_WAITING, 7),
            )
        case b"end":
            return ends(end_of(other), end_of(root, "m1", "m2", totals=_USED, closes_inputs=True))
    return None


async def _live(store: Store, root: RunRow, until: bytes) -> None:
    """Live a run up to a step."""
    for data in _STEPS[: _STEPS.index(until)]:
        await _step(store, root, data)


async def _step(store: Store, root: RunRow, data: bytes) -> None:
    each = _record(root, data)
    if data == b"go on":
        await store.claim(root, each, 5)
        root.writer = each.writer
    else:
        await store.append(each, _effects(root, data))


def _record(root: RunRow, data: bytes) -> JournalRecord:
    writer = f"writer of {root.run_id}" if data == b"go on" else ""
    return record(root, 2 + _STEPS.index(data), writer=writer, data=data)


async def _take_over(store: Store) -> None:
    """Take every run over that nobody works on, or that is due, and live it to its end."""
    for _ in _STEPS:
        for run in [*await store.abandoned_runs(LATER_US, 100), *await store.due_runs(7, 100)]:
            last = (await store.read_journal(run.run_id, 0, 10**6))[-1]
            effects = _effects(run, last.data)
            await store.append(last, effects)
            if effects is not None and any(each.run_id == run.run_id for each in effects.outcomes):
                continue
            following = last.last_sequence + 1
            await store.claim(run, record(run, following, writer=f"claim {following}"), 5)
            run.writer = f"claim {following}"
            step = last.data if last.data in _STEPS else await _last_step(store, run)
            if step is None:
                await store.append(record(run, following + 1, data=b"begin"), _effects(run, b"begin"))
            else:
                await _go_on(store, run, step, following + 1)


async def _last_step(store: Store, run: RunRow) -> bytes | None:
    found = [each.data for each in await store.read_journal(run.run_id, 0, 10**6) if each.data in _STEPS]
    return found[-1] if found else None


async def _go_on(store: Store, run: RunRow, step: bytes, at: int) -> None:
    """Do what comes after a step, by the claim that stands."""
    data = {b"begin": b"wait", b"wait": b"end", b"go on": b"end"}[step]
    await store.append(record(run, at, data=data), _effects(run, data))


async def _check(store: Store, root: RunRow) -> None:
    for run in (root, make_child(root, 1), make_child(root, 2)):
        assert (await get(store, run)).state == RUN_STATE_SUCCEEDED
    asked = [await store.get_input("default", make_input(root, number).input_id) for number in (1, 2)]
    assert [each.state for each in asked if each] == [INPUT_STATE_CLOSED] * 2
    assert await store.get_blob(root.run_id, "blob-1") == make_blob(root)
    session = await store.get_session("default", root.session_id)
    assert session is not None
    assert (session.message_count, session.totals, session.active_run_id) == (2, _USED, None)
    assert [text for *_, text in await positions(store, root)] == ["m1", "m2"]
    records = await store.read_journal(root.run_id, 0, 10**6)
    assert [each.first_sequence for each in records] == [*range(1, len(records) + 1)]
    assert await store.abandoned_runs(LATER_US, 10) == []
    assert await store.due_runs(LATER_US, 10) == []


@pytest.mark.parametrize("step", _STEPS)
@pytest.mark.parametrize("after", ["tried again", "taken over", "taken over, then tried again"])
async def test_an_engine_may_stop_after_any_write_of_what_follows_from_a_record(
    mongodb_uri: str, store: Store, step: bytes, after: str
) -> None:
    for writes in itertools.count():
        assert writes <= MOST_WRITES
        root = await create(store, make_run(lease_us=5))
        await _live(store, root, step)
        finished = await do_until_stopped(
            mongodb_uri, writes, lambda engine, root=root: _step(engine, root, step)
        )
        if after == "tried again":
            await _step(store, root, step)
        await _take_over(store)
        if after.endswith("then tried again"):
            ended = await get(store, root)
            with suppress(ClaimLostError):
                await _step(store, root, step)
            assert await get(store, root) == ended
        await _check(store, root)
        if finished:
            return


async def test_an_answer_wakes_its_run_though_the_engine_that_stored_it_stopped(
    mongodb_uri: str, store: Store
) -> None:
    for writes in itertools.count():
        root = await create(store, make_run())
        asked = make_input(root)
        await store.append(record(root, 2), Effects(inputs=[asked]))
        await suspend(store, root, 3, until_us=100)
        finished = await do_until_stopped(
            mongodb_uri,
            writes,
            lambda engine, asked=asked: engine.answer_input("default", asked.input_id, b"yes"),
        )
        # Who had no answer asks again.
        answered = await store.answer_input("default", asked.input_id, b"yes")
        assert answered is not None
        assert (answered.state, answered.answer) == (INPUT_STATE_ANSWERED, b"yes")
        assert (await get(store, root)).attention_us == NOW
        if finished:
            assert writes == 2
            return


async def test_who_is_late_to_suspend_a_run_that_was_taken_over_suspends_nothing(
    mongodb_uri: str, store: Store
) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    async with slow_engine(mongodb_uri, "runs") as (slow, held):
        suspending = slow.append(
            record(root, 3), Effects(suspension=Suspension(root.run_id, RUN_STATE_WAITING, 7))
        )
        await held.reached.wait()
        await store.claim(root, record(root, 4, writer="new"), LATER_US)
        held.go_on.set()
        await suspending
    for run in (root, child):
        stored = await get(store, run)
        assert (stored.state, stored.attention_us, stored.writer) == (RUN_STATE_RUNNING, None, "new")


async def test_a_child_that_begins_late_is_of_the_claim_that_stands(mongodb_uri: str, store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    async with slow_engine(mongodb_uri, "runs") as (slow, held):
        beginning = slow.append(record(root, 2), Effects(children=[child]))
        await held.reached.wait()
        await store.claim(root, record(root, 3, writer="new"), LATER_US)
        held.go_on.set()
        await beginning
    root.writer = "new"
    await suspend(store, root, 4)
    assert (await get(store, child)).state == RUN_STATE_WAITING
    await store.append(record(root, 5), ends(end_of(child)))
    assert (await get(store, child)).state == RUN_STATE_SUCCEEDED


async def test_a_claim_that_comes_late_takes_no_children_from_a_later_one(
    mongodb_uri: str, store: Store
) -> None:
    root = await create(store, make_run())
    before, since = make_child(root, 1), make_child(root, 2, writer="late")
    await store.append(record(root, 2), Effects(children=[before]))
    early = record(root, 3, writer="early")
    async with slow_engine(mongodb_uri, "runs") as (slow, held):
        claiming = asyncio.ensure_future(slow.claim(root, early, LATER_US))
        await held.reached.wait()
        await store.claim(root, record(root, 4, writer="late"), LATER_US)
        await store.append(record(root, 5, writer="late"), Effects(children=[since]))
        held.go_on.set()
        await claiming
    assert [(await get(store, run)).writer for run in (root, before, since)] == ["late"] * 3


async def test_an_end_that_is_written_again_after_another_claim_changes_nothing(store: Store) -> None:
    root = await create(store, make_run("s"))
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    stale = record(root, 3)
    await store.append(stale)
    await store.claim(root, record(root, 4, writer="new"), LATER_US)
    before = [await get(store, run) for run in (root, child)]
    session = await store.get_session("default", "s")
    await store.append(stale, ends(end_of(child), end_of(root, "m1", totals=_USED)))
    assert [await get(store, run) for run in (root, child)] == before
    assert await store.get_session("default", "s") == session
    assert await store.list_messages("default", "s", 0, None) == []
