"""Processes that are killed: the engine's while it writes, and MongoDB's."""

import asyncio
import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue.errors import ClaimLostError, StoreUnavailableError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import JournalRecord, RunRow
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store
from tests.servers.mongodb import MongoDB, run_mongodb

from .rows import LATER_US, create, make_run, positions, record

ROOT = Path(__file__).parents[3]
BOUND_S = 30.0
"""Ten times and more what anything here takes."""


def _kill_a_writer(address: str, acknowledged: int) -> dict[str, str]:
    """Let a process write, kill it after so many acknowledgements; the last one for each run."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.contract.engine_store.using", address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            lines = list(itertools.islice(process.stdout, acknowledged))
        finally:
            process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    return dict(line.split() for line in lines if line.endswith("\n"))


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
async def test_what_a_killed_engine_was_told_is_stored_is_there(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = str(tmp_path / "engine.db") if kind == "sqlite" else request.getfixturevalue("mongodb_uri")
    told = await asyncio.to_thread(_kill_a_writer, address, 200)
    assert len(told) > 20
    opened = open_sqlite_store(Path(address)) if kind == "sqlite" else open_mongo_store(address)
    async with opened as store:
        for run_id, last in told.items():
            run = await store.get_run("default", run_id)
            assert run is not None
            events = 6 if last == "end" else int(last)
            records = await store.read_journal(run_id, 0, 10**6)
            assert [each.first_sequence for each in records] == [*range(1, len(records) + 1)]
            assert len(records) >= events
            if last == "end":
                assert run.state == RUN_STATE_SUCCEEDED
                assert len(await positions(store, run)) == 2


@pytest.fixture
def own_mongodb(tmp_path: Path) -> Iterator[MongoDB]:
    """A server that is the test's to kill, whatever the environment names."""
    with run_mongodb(tmp_path) as server:
        yield server


async def _append(store: Store, each: JournalRecord) -> None:
    """Append as a journal does: the same record again until it is known to be stored."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                await store.append(each)
            except StoreUnavailableError:
                continue
            return


async def test_what_mongodb_acknowledged_before_it_was_killed_is_there(own_mongodb: MongoDB) -> None:
    async with open_mongo_store(own_mongodb.uri()) as store:
        runs = [await create(store, make_run(), new_session=True) for _ in range(4)]
        told: list[tuple[RunRow, int]] = []
        enough = asyncio.Event()

        async def writing(run: RunRow) -> None:
            for first in range(2, 60):
                await _append(store, record(run, first))
                told.append((run, first))
                if len(told) == 40:
                    enough.set()

        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(writing(run))
            await enough.wait()
            own_mongodb.kill()
            before = list(told)
            await asyncio.to_thread(own_mongodb.start)
            for run, first in before:
                assert await _read(store, run, first) == record(run, first)
        for run in runs:
            found = await store.read_journal(run.run_id, 0, 10**6)
            assert found == [record(run, first) for first in range(1, 60)]


async def _read(store: Store, run: RunRow, first: int) -> JournalRecord:
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return (await store.read_journal(run.run_id, first - 1, 1))[0]
            except StoreUnavailableError:
                continue


async def test_an_append_of_unknown_end_is_stored_once_or_lost_to_a_claim(own_mongodb: MongoDB) -> None:
    uri = own_mongodb.uri("serverSelectionTimeoutMS=200")
    async with open_mongo_store(uri) as store:
        runs = [await create(store, make_run(), new_session=True) for _ in range(8)]
        appends = [store.append(record(run, 2)) for run in runs]
        await asyncio.sleep(0)
        own_mongodb.kill()
        ends = await asyncio.gather(*appends, return_exceptions=True)
        assert {type(end) for end in ends} <= {StoreUnavailableError, type(None)}
        with pytest.raises(StoreUnavailableError, match=r"cannot be reached|connection"):
            await store.append(record(runs[0], 2))
        await asyncio.to_thread(own_mongodb.start)
        async with open_mongo_store(uri) as other:
            for run, end in zip(runs, ends, strict=True):
                head = await other.last_sequence(run.run_id)
                assert head == 2 or isinstance(end, StoreUnavailableError)
                claim = record(run, head + 1, writer="other")
                await other.claim(run, claim, LATER_US)
                if head == 2:
                    await store.append(record(run, 2))
                else:
                    with pytest.raises(ClaimLostError):
                        await store.append(record(run, 2))
                assert (await other.read_journal(run.run_id, head, 1))[0] == claim
