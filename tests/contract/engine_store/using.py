"""One use of everything that a store can do, and the process that is killed while it writes."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from retinue.engine.v1.run_pb2 import RUN_STATE_FAILED, RUN_STATE_SUCCEEDED
from retinue.errors import SessionBusyError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import (
    RUN_STATE_RUNNING,
    RUN_STATE_WAITING,
    Control,
    Effects,
    RunFilter,
    Suspension,
    Totals,
)
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store

from .rows import LATER_US, create, end_of, ends, finish, make_blob, make_child, make_input, make_run, record

RUNS = 8


async def use_everything(store: Store) -> None:
    """Ask for everything once, with something to be found."""
    run = await create(store, make_run("s", request_id="r"), new_session=True)
    again = make_run("s2", request_id="r")
    assert (await create(store, again, new_session=True)).run_id == run.run_id
    second = await create(store, make_run("s"))
    third = await create(store, make_run("s"))
    await store.control_run("default", third.run_id, Control(cancel_reason="why"))
    await store.append(record(run, 2))
    await store.append(record(run, 2))
    await store.claim(run, record(run, 3, writer="new"), LATER_US)
    run.writer = "new"
    await store.append(record(run, 4), ends(end_of(run, "m1", "m2")))
    await store.free_sessions("default", 10)
    await store.next_queued("default", "s")
    await store.abandoned_runs(LATER_US, 10)
    await store.renew_leases([second, third], LATER_US)
    second.writer = "another"
    await store.renew_leases([second, third], LATER_US)
    await _use_what_waits(store)
    await _use_sessions(store)
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
        RunFilter("default", states=(RUN_STATE_RUNNING, RUN_STATE_WAITING)),
        RunFilter("default", states=(RUN_STATE_FAILED,)),
        RunFilter("default", "s", states, "a"),
        RunFilter("default", root_run_id=run.run_id),
        RunFilter("default", "s", states, "a", run.run_id),
    ):
        await store.list_runs(which, None, 5)
        await store.list_runs(which, place, 5)


async def _use_what_waits(store: Store) -> None:
    root = await store.create_run(
        waiting := make_run("w"), record(waiting), new_session=True, blobs=[make_blob(waiting)]
    )
    child, asked = make_child(root), make_input(root)
    begins = Effects(
        children=[child],
        inputs=[asked],
        blobs=[make_blob(root, 2)],
        suspension=Suspension(root.run_id, RUN_STATE_WAITING, 5),
    )
    await store.append(record(root, 2), begins)
    await store.due_runs(5, 10)
    await store.answer_input("default", asked.input_id, b"yes")
    await store.answered_inputs(root.run_id)
    await store.get_input("default", asked.input_id)
    for root_run_id in ("", root.run_id):
        for closed in (False, True):
            await store.list_inputs("default", root_run_id, None, 5, closed=closed)
    await store.get_blob(root.run_id, "blob-1")
    await store.claim(root, record(root, 3, writer="next"), LATER_US)
    root.writer = "next"
    await store.control_run("default", root.run_id, Control(pause_reason="wait"))
    await store.take_commands(await store.commanded_runs())
    await store.append(record(root, 4), Effects(received=[asked.input_id]))
    step = make_child(root, 2, session_id="w:step")
    await store.append(record(root, 5), Effects(children=[step], outcomes=[end_of(step, "m", base="w")]))
    ended = ends(end_of(child), end_of(root, "m1", closes_inputs=True, totals=Totals(runs=1)))
    await store.append(record(root, 6), ended)


async def _use_sessions(store: Store) -> None:
    queued = make_run("q", expire_us=1, priority=3)
    await store.create_run(queued, record(queued), new_session=True, queue=True)
    await store.expired_runs(1, 10)
    await store.queued_namespaces()
    await store.count_queued()
    await store.count_queued("default")
    await store.free_sessions("default", 10)
    refused = make_run("q")
    with suppress(SessionBusyError):
        await store.create_run(refused, record(refused), new_session=False, reject_busy=True)
    await store.label_session("default", "q", {"a": "1", "b": "2"})
    await store.label_session("default", "q", {"a": "1", "b": "2"})
    for labels in ({"a": "1"}, {"a": "1", "b": "2"}):
        await store.list_sessions("default", None, 5, labels)
        await store.list_sessions("default", (2**50, "x"), 5, labels)
    await store.list_sessions("default", None, 5, base="w")
    await store.list_sessions("default", (2**50, "x"), 5, base="w")
    await store.old_sessions(LATER_US, 10)
    await store.surplus_sessions(0, 10)
    await store.delete_session("default", "w")


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
