"""Lists: the newest first, page after page, also while others write."""

import asyncio

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_FAILED, RUN_STATE_SUCCEEDED
from retinue_engine.stores.rows import RUN_STATE_QUEUED, RUN_STATE_RUNNING, RunFilter, RunRow
from retinue_engine.stores.store import Store

from .rows import create, end_of, ends, ids, make_run, record


async def _pages(store: Store, which: RunFilter, limit: int) -> list[str]:
    found: list[RunRow] = []
    while page := await store.list_runs(
        which, (found[-1].create_us, found[-1].run_id) if found else None, limit
    ):
        assert len(page) <= limit
        found += page
    return ids(found)


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_runs_are_listed_from_the_newest_page_after_page(store: Store, limit: int) -> None:
    # Some were accepted in the same microsecond.
    runs = [make_run(create_us=1_000 + number // 3) for number in range(10)]
    await asyncio.gather(*(create(store, run, new_session=True) for run in runs))
    newest = sorted(runs, key=lambda run: (run.create_us, run.run_id), reverse=True)
    assert await _pages(store, RunFilter("default"), limit) == ids(newest)


async def test_pages_are_stable_while_others_write(store: Store) -> None:
    runs = [make_run() for _ in range(6)]
    await asyncio.gather(*(create(store, run, new_session=True) for run in runs))
    first = await store.list_runs(RunFilter("default"), None, 2)
    await create(store, make_run())
    second = await store.list_runs(RunFilter("default"), (first[-1].create_us, first[-1].run_id), 2)
    await store.append(record(runs[0], 2), ends(end_of(runs[0])))
    third = await store.list_runs(RunFilter("default"), (second[-1].create_us, second[-1].run_id), 2)
    assert ids([*first, *second, *third]) == ids(runs[::-1])


async def test_runs_are_listed_by_session_state_and_target(store: Store) -> None:
    done = await create(store, make_run("s", target_name="a"))
    await store.append(record(done, 2), ends(end_of(done)))
    failed = await create(store, make_run("s", target_name="b"))
    await store.append(record(failed, 2), ends(end_of(failed, state=RUN_STATE_FAILED)))
    running = await create(store, make_run("s", target_name="a"))
    queued = await create(store, make_run("s", target_name="b"))
    other = await create(store, make_run("t", target_name="a"))

    async def listed(**which: object) -> list[str]:
        found = await _pages(store, RunFilter("default", **which), 1)  # type: ignore[arg-type]
        assert found == ids(await store.list_runs(RunFilter("default", **which), None, 100))  # type: ignore[arg-type]
        return found

    assert await listed(session_id="s") == ids([queued, running, failed, done])
    assert await listed(target_name="a") == ids([other, running, done])
    assert await listed(target_name="b", session_id="s") == ids([queued, failed])
    assert await listed(states=(RUN_STATE_RUNNING,)) == ids([other, running])
    assert await listed(states=(RUN_STATE_QUEUED, RUN_STATE_FAILED)) == ids([queued, failed])
    assert await listed(states=(RUN_STATE_SUCCEEDED,), session_id="s", target_name="a") == [done.run_id]
    assert await listed(session_id="none") == []


async def test_sessions_are_listed_from_the_newest_page_after_page(store: Store) -> None:
    runs = [make_run(create_us=1_000 + number // 2) for number in range(5)]
    for run in runs:
        await create(store, run, new_session=True)
    expected = [run.session_id for run in sorted(runs, key=lambda run: (run.create_us, run.session_id))]
    found: list[tuple[int, str]] = []
    while page := await store.list_sessions("default", found[-1] if found else None, 2):
        found += [(each.create_us, each.session_id) for each in page]
    assert [session_id for _, session_id in found] == expected[::-1]
