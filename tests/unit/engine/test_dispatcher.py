"""The dispatcher: a run is at work once, and none is left behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import StoreUnavailableError
from retinue_engine.runs.dispatcher import Dispatcher
from retinue_engine.runs.keeping import open_keepers
from retinue_engine.runs.supervisor import ActiveRun
from retinue_engine.stores.rows import FINAL_STATES, RUN_STATE_QUEUED, Effects, RunOutcome, RunRow
from retinue_engine.stores.sqlite.store import SqliteStore, open_sqlite_store
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import make_run
from tests.suite import until


class Work:
    """Ends a run when it may."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.go_on = asyncio.Event()

    async def __call__(self, active: ActiveRun) -> None:
        self.begun.append(active.row.run_id)
        await self.go_on.wait()
        active.ending = True
        row = active.row
        result = run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED)
        event = event_pb2.RunEvent(run_finished=event_pb2.RunFinished(result=result))
        active.journal.emit(event)
        outcome = RunOutcome(row.namespace, row.run_id, row.session_id, result.state, 5, b"")
        active.journal.attach(Effects(outcomes=[outcome]))
        await active.journal.commit()


@asynccontextmanager
async def kept(folder: Path, work: Work) -> AsyncIterator[tuple[Store, Dispatcher]]:
    async with (
        open_sqlite_store(folder / "engine.db") as store,
        open_keepers(store, work, lease_s=15, max_active_runs=100, max_queued_runs=100) as keepers,
    ):
        yield store, keepers.dispatcher


async def accept(dispatcher: Dispatcher, session_id: str) -> RunRow:
    run = make_run(session_id, request=b"", definition=b"")
    started = event_pb2.RunEvent(run_id=run.run_id, sequence=1, run_started=event_pb2.RunStarted())
    return await dispatcher.accept(run, started, new_session=False)


async def test_a_run_that_is_found_while_it_is_taken_over_is_taken_over_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    get_run, claimed = SqliteStore.get_run, asyncio.Event()

    async def slow(store: SqliteStore, namespace: str, run_id: str) -> RunRow | None:
        await claimed.wait()
        return await get_run(store, namespace, run_id)

    monkeypatch.setattr(SqliteStore, "get_run", slow)
    async with kept(tmp_path, work) as (store, dispatcher):
        await accept(dispatcher, "s")
        waiting = await accept(dispatcher, "s")
        assert waiting.state == RUN_STATE_QUEUED
        first = asyncio.create_task(dispatcher._take_over(replace(waiting)))

        async def is_claimed() -> bool:
            return await store.last_sequence(waiting.run_id) == 2

        await until(is_claimed, "it is claimed")
        # Claimed, and not at work yet.
        second = asyncio.create_task(dispatcher._take_over(replace(waiting)))
        await asyncio.wait([second], timeout=0.2)
        claimed.set()
        assert (await first, await second) == (True, False)
        await until(lambda: len(work.begun) == 2, "both are at work")
        assert await store.last_sequence(waiting.run_id) == 2
        work.go_on.set()

        async def ended() -> bool:
            stored = await store.get_run("default", waiting.run_id)
            return stored is not None and stored.state in FINAL_STATES

        await until(ended, "it ends")
    assert len(work.begun) == 2


async def test_a_run_that_could_not_be_begun_is_found_again_though_no_other_engine_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work()
    claim, failures = SqliteStore.claim, [1]

    async def failing(store: SqliteStore, *arguments: Any) -> None:
        if failures:
            failures.pop()
            raise StoreUnavailableError("the disk is full", store="sqlite")
        await claim(store, *arguments)

    monkeypatch.setattr(SqliteStore, "claim", failing)
    async with kept(tmp_path, work) as (_, dispatcher):
        first = await accept(dispatcher, "s")
        waiting = await accept(dispatcher, "s")
        work.go_on.set()
        await until(lambda: work.begun == [first.run_id, waiting.run_id], "the second begins")
    assert not failures
