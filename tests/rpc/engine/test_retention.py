"""Sessions that are not kept for ever: the old ones and those beyond a number go, with all that is theirs."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from retinue.errors import RunNotFoundError, SessionNotFoundError
from retinue_engine.runs.retention import TOGETHER, Retention
from retinue_engine.stores.rows import Control, RunRow, SessionRow
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import create, end_of, ends, make_blob, make_run, record, suspend
from tests.suite import open_suite, until

DAY_US = 24 * 60 * 60 * 1_000_000


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_sqlite_store(tmp_path / "engine.db") as opened:
        yield opened


def ago_us(days: float) -> int:
    return time.time_ns() // 1000 - int(days * DAY_US)


async def used(store: Store, session_id: str, days: float, *, namespace: str = "default") -> RunRow:
    """A session whose last run ended so many days ago."""
    run = make_run(session_id, namespace=namespace, create_us=ago_us(days))
    await create(store, run)
    await store.append(record(run, 2), ends(end_of(run, '{"role": "user"}', end_us=ago_us(days))))
    return run


async def kept(store: Store, namespace: str = "default") -> set[str]:
    return {each.session_id for each in await store.list_sessions(namespace, None, 1000)}


async def test_sessions_that_were_not_used_for_so_long_go_with_their_runs(store: Store) -> None:
    gone = [await used(store, f"old {days}", days) for days in (3, 2.1)]
    await used(store, "again", 5)
    stays = [await used(store, "again", 1.9), await used(store, "new", 0)]
    elsewhere = await used(store, "old", 9, namespace="other")
    assert await Retention(store, days=2, sessions=None).sweep() == 3
    assert await kept(store) == {"again", "new"}
    assert await kept(store, "other") == set()
    for run in (*gone, elsewhere):
        assert await store.get_run(run.namespace, run.run_id) is None
        assert await store.last_sequence(run.run_id) == 0
    for run in stays:
        assert await store.get_run(run.namespace, run.run_id)
    assert len(await store.list_messages("default", "again", 0, None)) == 2
    assert await Retention(store, days=2, sessions=None).sweep() == 0


async def test_in_each_namespace_only_those_used_last_are_kept(store: Store) -> None:
    for number in range(5):
        await used(store, f"s{number}", 5 - number)
        await used(store, f"t{number}", number, namespace="other")
    await used(store, "s0", 0)
    assert await Retention(store, days=None, sessions=2).sweep() == 6
    assert await kept(store) == {"s0", "s4"}
    assert await kept(store, "other") == {"t0", "t1"}


async def test_both_limits_hold_together(store: Store) -> None:
    for number in range(5):
        await used(store, f"s{number}", number)
    assert await Retention(store, days=2.5, sessions=4).sweep() == 2
    assert await kept(store) == {"s0", "s1", "s2"}


async def test_what_is_in_use_is_left_alone(store: Store) -> None:
    running = make_run("running", create_us=ago_us(9))
    await create(store, running)
    waiting = make_run("waiting", create_us=ago_us(9))
    await create(store, waiting)
    await suspend(store, waiting)
    await used(store, "old", 9)
    assert await Retention(store, days=1, sessions=1).sweep() == 1
    assert await kept(store) == {"running", "waiting"}
    assert await store.control_run("default", waiting.run_id, Control(resume=True))


async def test_more_than_one_look_takes_in_are_deleted_too(store: Store) -> None:
    count = 2 * TOGETHER + 5
    for number in range(count):
        await used(store, f"s{number}", 9)
    assert await Retention(store, days=1, sessions=None).sweep() == count
    assert await kept(store) == set()


async def test_a_session_that_is_used_again_while_others_are_deleted_stays(store: Store) -> None:
    for name in ("first", "second", "third"):
        await used(store, name, 9)
    delete = store.delete_session

    async def deleting(namespace: str, session_id: str) -> int | None:
        # Somebody talks in the others meanwhile, and has the answer before their turn comes.
        for name in await kept(store) - {session_id}:
            await used(store, name, 0)
        return await delete(namespace, session_id)

    store.delete_session = deleting  # type: ignore[method-assign]
    assert await Retention(store, days=1, sessions=None).sweep() == 1
    assert len(await kept(store)) == 2


async def test_what_belongs_to_a_session_goes_with_it(store: Store) -> None:
    run = make_run("s", create_us=ago_us(9))
    await store.create_run(run, record(run), new_session=False, blobs=[make_blob(run)])
    await store.append(record(run, 2), ends(end_of(run, "{}", end_us=ago_us(9))))
    assert await store.get_blob(run.run_id, "blob-1")
    await Retention(store, days=1, sessions=None).sweep()
    assert await store.get_blob(run.run_id, "blob-1") is None
    assert await store.list_messages("default", "s", 0, None) == []
    # A session of the same name begins anew.
    await used(store, "s", 0)
    session = await store.get_session("default", "s")
    assert isinstance(session, SessionRow)
    assert session.message_count == 1


async def test_an_engine_keeps_as_many_sessions_as_it_is_told(tmp_path: Path) -> None:
    async with open_suite(tmp_path) as suite:
        runs = [(await suite.story(session_id=f"s{number}"))[0].run_id for number in range(5)]
    async with open_suite(tmp_path, retain_sessions=2) as suite:

        async def swept() -> bool:
            return len([each async for each in suite.client.sessions.list()]) == 2

        await until(swept, "the engine has swept")
        assert [each.session_id async for each in suite.client.sessions.list()] == ["s4", "s3"]
        for number, run_id in enumerate(runs):
            if number >= 3:
                assert await suite.watched(run_id)
                continue
            with pytest.raises(RunNotFoundError):
                await suite.client.runs.get(run_id)
            with pytest.raises(SessionNotFoundError):
                await suite.client.sessions.get(f"s{number}")


async def test_an_engine_keeps_sessions_as_long_as_it_is_told(tmp_path: Path) -> None:
    async with open_suite(tmp_path) as suite:
        await suite.story(session_id="old")
    # Less than a millisecond, in days.
    async with open_suite(tmp_path, retain_days=1e-9) as suite:

        async def swept() -> bool:
            return [each async for each in suite.client.sessions.list()] == []

        await until(swept, "the engine has swept")
    async with open_suite(tmp_path, retain_days=1) as suite:
        await suite.story(session_id="new")
    async with open_suite(tmp_path, retain_days=1) as suite:
        assert len([each async for each in suite.client.sessions.list()]) == 1
