"""The supervisor: words reach runs in the order in which they were said, and one run's failure is its own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from retinue.engine.v1 import event_pb2
from retinue.errors import InternalError
from retinue_engine.runs.keeping import Keepers, open_keepers
from retinue_engine.runs.supervisor import ActiveRun
from retinue_engine.stores.rows import Control, RunRow
from retinue_engine.stores.sqlite.store import SqliteStore, open_sqlite_store
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import make_run
from tests.suite import until


class Waiting:
    """Work that never ends, and runs that tell what they receive."""

    def __init__(self) -> None:
        self.active: dict[str, ActiveRun] = {}

    async def __call__(self, active: ActiveRun) -> None:
        self.active[active.row.run_id] = active
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def kept(folder: Path, work: Waiting) -> AsyncIterator[tuple[Store, Keepers]]:
    async with (
        open_sqlite_store(folder / "engine.db") as store,
        open_keepers(store, work, lease_s=15, max_active_runs=9, max_queued_runs=9) as keepers,
    ):
        yield store, keepers


async def begin(keepers: Keepers, work: Waiting) -> ActiveRun:
    run = make_run("", request=b"", definition=b"")
    started = event_pb2.RunEvent(run_id=run.run_id, sequence=1, run_started=event_pb2.RunStarted())
    await keepers.dispatcher.accept(run, started, new_session=True)
    await until(lambda: run.run_id in work.active, "it is at work")
    return work.active[run.run_id]


async def test_a_run_that_cannot_take_its_answers_keeps_no_other_from_its_own(
    tmp_path: Path,
) -> None:
    work = Waiting()
    received: list[str] = []
    async with kept(tmp_path, work) as (store, keepers):
        broken, other = await begin(keepers, work), await begin(keepers, work)

        async def fail() -> bool:
            raise InternalError("the answer is too large")

        async def receive() -> bool:
            received.append(other.row.run_id)
            return True

        broken.receive, other.receive = fail, receive
        for active in (broken, other):
            await store.control_run("default", active.row.run_id, Control(pause_reason="lunch"))
        await keepers.supervisor.hear([broken.row.run_id, other.row.run_id])
        assert received == [other.row.run_id]
        # It is taken up again for what it was not told.
        assert (broken.unheard, other.unheard) == (1, 0)


async def test_of_two_words_the_last_one_said_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Waiting()
    take, reading, go_on = SqliteStore.take_commands, asyncio.Event(), asyncio.Event()

    async def slow(store: SqliteStore, run_ids: Sequence[str]) -> list[RunRow]:
        rows = await take(store, run_ids)
        if not reading.is_set():
            # The first reader has what was said first, and is overtaken by the second.
            reading.set()
            await go_on.wait()
        return rows

    monkeypatch.setattr(SqliteStore, "take_commands", slow)
    async with kept(tmp_path, work) as (store, keepers):
        active = await begin(keepers, work)
        run_id = active.row.run_id
        await store.control_run("default", run_id, Control(pause_reason="lunch"))
        first = asyncio.create_task(keepers.supervisor.hear([run_id]))
        await reading.wait()
        await store.control_run("default", run_id, Control(resume=True))
        second = asyncio.create_task(keepers.supervisor.hear([run_id]))
        await asyncio.wait([second], timeout=0.1)
        go_on.set()
        await asyncio.gather(first, second)
        assert active.row.pause_reason is None
