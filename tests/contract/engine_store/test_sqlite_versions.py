"""Files of other versions, and files in which something cannot be."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RUN_STATE_SUCCEEDED
from retinue.errors import StoreUnavailableError
from retinue_engine.stores.rows import (
    NOW,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    Effects,
    RunFilter,
    RunRow,
    Totals,
)
from retinue_engine.stores.sqlite.check import check
from retinue_engine.stores.sqlite.schema import SCHEMA_VERSION, connect, migrate
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store
from retinue_engine.story.journal import encode_record

from .rows import create, end_of, ends, ids, make_child, make_run, record
from .using import use_everything
from .version_1 import write_version_1


def _shape(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return sorted(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


async def test_a_file_of_the_first_version_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    write_version_1(path)
    async with open_sqlite_store(path) as store:
        runs = {run.run_id: run for run in await store.list_runs(RunFilter("default"), None, 10)}
        assert runs["run-done"] == RunRow(
            run_id="run-done",
            namespace="default",
            root_run_id="run-done",
            request_id="asked",
            request_digest=b"\x01",
            target_kind=2,
            target_name="a",
            target_version=3,
            session_id="talk",
            create_us=100,
            request=b"\x02",
            definition=b"\x03",
            writer="w1",
            lease_us=7,
            state=RUN_STATE_SUCCEEDED,
            end_us=150,
            result=b"\x04",
        )
        assert await store.find_request("default", "asked") == runs["run-done"]
        assert runs["run-cancelled"].cancel_reason == "why"
        assert runs["run-queued"].state == RUN_STATE_QUEUED
        assert [each.data for each in await store.read_journal("run-done", 0, 100)] == [b"\x01", b"\x02"]
        session = await store.get_session("default", "talk")
        assert session is not None
        assert (session.message_count, session.active_run_id) == (2, "run-cancelled")
        assert (session.labels, session.totals) == ({}, Totals())
        messages = await store.list_messages("default", "talk", 0, None)
        assert [each.message_json for each in messages] == ["m1", "m2"]


async def test_a_file_of_the_first_version_goes_on_where_it_stood(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    write_version_1(path)
    async with open_sqlite_store(path) as store:
        assert await store.commanded_runs() == ["run-cancelled"]
        (cancelled,) = await store.abandoned_runs(0, 10)
        assert (cancelled.run_id, cancelled.attention_us) == ("run-cancelled", NOW)
        child = make_child(cancelled)
        await store.append(record(cancelled, 2), Effects(children=[child]))
        ended = ends(end_of(child), end_of(cancelled, "m3", totals=Totals(runs=1)))
        await store.append(record(cancelled, 3), ended)
        begun = await store.next_queued("default", "talk")
        assert begun is not None
        assert (begun.run_id, begun.state) == ("run-queued", RUN_STATE_RUNNING)
        await use_everything(store)


async def test_a_file_that_was_brought_here_is_like_a_new_one(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    write_version_1(old)
    for path, version in ((old, 1), (new, 0)):
        with closing(connect(path)) as connection:
            assert migrate(connection, path) == version
            assert migrate(connection, path) == SCHEMA_VERSION
    assert _shape(old) == _shape(new)


async def test_a_file_that_cannot_be_brought_here_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    write_version_1(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE blobs (in_the_way)")
    before = _shape(path)
    with pytest.raises(StoreUnavailableError, match=r"from schema 1 to .*left as it was.*blobs"):
        async with open_sqlite_store(path):
            pass
    assert _shape(path) == before
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match=r"newer version of Retinue \(schema 99"):
        async with open_sqlite_store(path):
            pass
    assert _shape(path) == []


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file in which all is well: a run that has ended, one with a child at work, one that is queued."""
    path = tmp_path / "engine.db"
    async with open_sqlite_store(path) as store:
        await _end(store, await create(store, make_run("s", run_id="run-a", root_run_id="run-a")))
        running = await create(store, make_run("s"))
        await store.append(record(running, 2), Effects(children=[make_child(running)]))
        await create(store, make_run("s"))
        assert ids(await store.list_runs(RunFilter("default", states=(RUN_STATE_SUCCEEDED,)), None, 9)) == [
            "run-a"
        ]
    return path


async def _end(store: Store, run: RunRow) -> None:
    last = event_pb2.RunEvent(run_id=run.run_id, sequence=2, run_finished=event_pb2.RunFinished())
    await store.append(encode_record(run.run_id, run.writer, [last], 2), ends(end_of(run, "m1", "m2")))


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(path)) as opened:
        yield opened


def test_nothing_is_said_of_a_file_in_which_all_is_well(connection: sqlite3.Connection) -> None:
    assert check(connection) == []
    assert not connection.in_transaction


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM journal WHERE first_sequence = 1 AND root_run_id = 'run-a'", "run-a.* 2 after event 0"),
        ("UPDATE journal SET last_sequence = 2 WHERE root_run_id = 'run-a'", "run-a.* 2 after event 2"),
        (
            "DELETE FROM journal WHERE first_sequence = 2 AND root_run_id = 'run-a'",
            "run-a has ended.*RunFinished",
        ),
        (
            "UPDATE journal SET data = x'ffff' WHERE first_sequence = 2 AND root_run_id = 'run-a'",
            "run-a has ended.*RunFinished",
        ),
        ("UPDATE sessions SET message_count = 3", "session s of default counts 3 messages, and holds 2"),
        ("DELETE FROM messages WHERE position = 1", "counts 2 messages, and holds 1, the last at place 2"),
        ("UPDATE messages SET position = 9 WHERE position = 2", "and holds 2, the last at place 9"),
        ("PRAGMA user_version = 1", "schema 1.*migrate"),
    ],
)
def test_what_cannot_be_is_said(connection: sqlite3.Connection, damage: str, said: str) -> None:
    connection.execute(damage)
    (found,) = check(connection)
    assert re.search(said, found), found


def test_a_damaged_file_is_said_to_be_damaged(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_master SET sql = replace(sql, 'parent_run_id = ''''', 'parent_run_id <> ''''')"
        " WHERE name = 'runs_newest'"
    )
    connection.execute("PRAGMA writable_schema = RESET")
    assert any("runs_newest" in said for said in check(connection))
