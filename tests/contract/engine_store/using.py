"""One use of everything that a store can do, and the process that is killed while it writes."""

import asyncio
import sys
from pathlib import Path

from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue_engine.store import RUN_STATE_RUNNING, RunFilter, Store
from retinue_engine.store_mongo import open_mongo_store
from retinue_engine.store_sqlite import open_sqlite_store

from .rows import LATER_US, create, end_of, finish, make_run, record

RUNS = 8


async def use_everything(store: Store) -> None:
    """Ask for everything once, with something to be found."""
    run = await create(store, make_run("s", request_id="r"), new_session=True)
    again = make_run("s2", request_id="r")
    assert (await create(store, again, new_session=True)).run_id == run.run_id
    second = await create(store, make_run("s"))
    third = await create(store, make_run("s"))
    await store.request_cancel("default", third.run_id, "why")
    await store.append(record(run, 2))
    await store.append(record(run, 2))
    await store.claim(run, record(run, 3, writer="new"), LATER_US)
    run.writer = "new"
    await store.append(record(run, 4), end_of(run, "m1", "m2"))
    await store.waiting_sessions(10)
    await store.next_queued("default", "s")
    await store.abandoned_runs(LATER_US, 10)
    await store.renew_leases([second, third], LATER_US)
    second.writer = "another"
    await store.renew_leases([second, third], LATER_US)
    await store.cancelled_runs()
    await store.read_journal(run.run_id, 0, 1)
    await store.read_journal(run.run_id, 2, 10_000)
    await store.last_sequence(run.run_id)
    await store.get_run("default", run.run_id)
    await store.find_request("default", "r")
    await store.get_session("default", "s")
    place = (2**50, "x")
    await store.list_sessions("default", None, 5)
    await store.list_sessions("default", place, 5)
    await store.list_messages("default", "s", 1, 5)
    states = (RUN_STATE_RUNNING, RUN_STATE_SUCCEEDED)
    for which in (
        RunFilter("default"),
        RunFilter("default", session_id="s"),
        RunFilter("default", target_name="a"),
        RunFilter("default", states=states),
        RunFilter("default", "s", states, "a"),
    ):
        await store.list_runs(which, None, 5)
        await store.list_runs(which, place, 5)


async def _write(store: Store) -> None:
    """Write without end, and say what is durable: the run, and the last event or `end`."""

    async def writing() -> None:
        while True:
            run = await create(store, make_run(), new_session=True)
            _acknowledge(run.run_id, 1)
            for first in range(2, 6):
                await store.append(record(run, first))
                _acknowledge(run.run_id, first)
            await finish(store, run, "m1", "m2", at=6)
            _acknowledge(run.run_id, "end")

    async with asyncio.TaskGroup() as group:
        for _ in range(RUNS):
            group.create_task(writing())


def _acknowledge(run_id: str, what: object) -> None:
    sys.stdout.write(f"{run_id} {what}\n")
    sys.stdout.flush()


async def _main(address: str) -> None:
    opened = open_mongo_store(address) if "://" in address else open_sqlite_store(Path(address))
    async with opened as store:
        await _write(store)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
