"""Accepting a run: stored once, with its first record, RUNNING or behind its session."""

import asyncio
from dataclasses import replace

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_SUCCEEDED
from retinue_engine.stores.rows import (
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Control,
    RunFilter,
    SessionTakenError,
)
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import create, end_of, ends, finish, ids, make_run, record


async def test_a_run_is_returned_and_read_as_it_was_stored(store: Store) -> None:
    run = make_run(request_id="r")
    created = await create(store, run, new_session=True)
    assert created == replace(run, state=RUN_STATE_RUNNING)
    assert await store.get_run("default", run.run_id) == created
    assert await store.find_request("default", "r") == created
    assert await store.read_journal(run.run_id, 0, 1) == [record(run)]
    session = await store.get_session("default", run.session_id)
    assert session is not None
    assert (session.message_count, session.create_us, session.update_us) == (0, run.create_us, run.create_us)


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.get_run("default", "run-x") is None
    assert await store.find_request("default", "x") is None
    assert await store.find_request("default", "") is None
    assert await store.get_session("default", "x") is None
    assert await store.control_run("default", "run-x", Control(cancel_reason="why")) is None
    assert await store.next_queued("default", "x") is None
    assert await store.last_sequence("run-x") == 0
    assert await store.read_journal("run-x", 0, 1) == []
    assert await store.list_messages("default", "x", 0, None) == []
    assert await store.get_input("default", "input-x") is None
    assert await store.answer_input("default", "input-x", b"yes") is None
    assert await store.get_blob("run-x", "blob-x") is None
    assert await store.label_session("default", "x", {"a": "b"}) is None
    assert await store.delete_session("default", "x") is None


async def test_fifty_at_once_with_one_request_id_are_one_run(store: Store) -> None:
    runs = [make_run(request_id="same") for _ in range(50)]
    created = await asyncio.gather(*(create(store, run, new_session=True) for run in runs))
    assert len(set(ids(created))) == 1
    assert ids(await store.list_runs(RunFilter("default"), None, 100)) == [created[0].run_id]
    sessions = await store.list_sessions("default", None, 100)
    assert [each.session_id for each in sessions] == [created[0].session_id]
    for run in runs:
        assert await store.last_sequence(run.run_id) == (1 if run.run_id == created[0].run_id else 0)


async def test_fifty_at_once_in_one_session_with_one_request_id_are_one_run(store: Store) -> None:
    created = await asyncio.gather(*(create(store, make_run("s", request_id="same")) for _ in range(50)))
    assert len(set(ids(created))) == 1
    stored = await store.get_run("default", created[0].run_id)
    assert stored is not None
    assert stored.state == RUN_STATE_RUNNING


async def test_a_known_request_finds_its_run_also_after_it_ended(store: Store) -> None:
    run = await create(store, make_run(request_id="r"))
    await finish(store, run)
    again = await create(store, make_run(request_id="r"))
    assert (again.run_id, again.state) == (run.run_id, RUN_STATE_SUCCEEDED)


async def test_runs_without_a_request_id_are_each_their_own(store: Store) -> None:
    created = [await create(store, make_run(), new_session=True) for _ in range(3)]
    assert len(set(ids(created))) == 3


async def test_a_new_session_that_exists_is_refused_and_leaves_nothing(store: Store) -> None:
    run = await create(store, make_run("s"), new_session=True)
    second = make_run("s", request_id="r")
    with pytest.raises(SessionTakenError):
        await create(store, second, new_session=True)
    assert await store.get_run("default", second.run_id) is None
    assert await store.find_request("default", "r") is None
    assert await store.last_sequence(second.run_id) == 0
    await finish(store, run)
    assert await store.next_queued("default", "s") is None


async def test_of_many_that_draw_the_same_new_session_one_gets_it(store: Store) -> None:
    drawn = await asyncio.gather(
        *(create(store, make_run("s"), new_session=True) for _ in range(10)), return_exceptions=True
    )
    assert sum(isinstance(each, SessionTakenError) for each in drawn) == 9
    assert len(await store.list_runs(RunFilter("default"), None, 100)) == 1


async def test_a_known_request_wins_over_a_session_that_is_taken(store: Store) -> None:
    run = await create(store, make_run("s", request_id="r"), new_session=True)
    again = await create(store, make_run("other", request_id="r"), new_session=True)
    assert again.run_id == run.run_id
    assert await store.get_session("default", "other") is None


async def test_a_run_of_a_busy_session_waits_with_its_first_record(store: Store) -> None:
    await create(store, make_run("s"), new_session=True)
    run = make_run("s")
    assert (await create(store, run)).state == RUN_STATE_QUEUED
    assert await store.last_sequence(run.run_id) == 1


async def test_namespaces_know_nothing_of_each_other(store: Store) -> None:
    one = await create(store, make_run("s", request_id="r"), new_session=True)
    two = await create(store, make_run("s", request_id="r", namespace="other"), new_session=True)
    assert one.run_id != two.run_id
    assert (one.state, two.state) == (RUN_STATE_RUNNING, RUN_STATE_RUNNING)
    assert await store.get_run("other", one.run_id) is None
    assert await store.control_run("other", one.run_id, Control(cancel_reason="not yours")) is None
    assert ids(await store.list_runs(RunFilter("other"), None, 10)) == [two.run_id]
    assert [each.namespace for each in await store.list_sessions("other", None, 10)] == ["other"]
    await finish(store, two, "m")
    assert await store.list_messages("default", "s", 0, None) == []
    assert len(await store.list_messages("other", "s", 0, None)) == 1


async def test_reopening_keeps_everything(open_store: OpenStore) -> None:
    async with open_store() as store:
        done = await create(store, make_run("s", request_id="r"), new_session=True)
        waiting = await create(store, make_run("s"))
        await store.append(record(done, 2, 5))
        await store.append(record(done, 6), ends(end_of(done, "m1", "m2", state=RUN_STATE_CANCELLED)))
        kept = await store.list_runs(RunFilter("default"), None, 10)
        journal = await store.read_journal(done.run_id, 0, 10**6)
        session = await store.get_session("default", "s")
        messages = await store.list_messages("default", "s", 0, None)
    async with open_store() as store:
        assert await store.list_runs(RunFilter("default"), None, 10) == kept
        assert await store.read_journal(done.run_id, 0, 10**6) == journal
        assert await store.get_session("default", "s") == session
        assert await store.list_messages("default", "s", 0, None) == messages
        assert len(messages) == 2
        begun = await store.next_queued("default", "s")
        assert begun is not None
        assert begun.run_id == waiting.run_id
