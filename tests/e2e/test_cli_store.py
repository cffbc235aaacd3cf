"""`retinue store` on real stores, which it migrates, checks and prunes as a process of its own."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from retinue.engine.v1 import event_pb2, service_pb2
from retinue_engine.stores.mongo import schema as mongo_schema
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.sqlite import schema as sqlite_schema
from retinue_engine.stores.sqlite.store import open_sqlite_store
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import end_of, ends, make_run, record
from tests.contract.engine_store.version_1 import write_version_1
from tests.servers.mongodb import given_uri, run_mongodb

from .cli_project import Project

# One server and one suite for all of them.
pytestmark = pytest.mark.xdist_group("cli_store")

HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def fresh_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str | None]]:
    """Gives the address of a database that nobody has used."""
    if given_uri():
        yield given_uri
        return
    with run_mongodb(tmp_path_factory.mktemp("mongodb")) as server:
        yield server.uri


class Kept:
    """A store and the commands that look after it."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.newest = (
            sqlite_schema.SCHEMA_VERSION if address.startswith("sqlite:") else mongo_schema.SCHEMA_VERSION
        )
        self._project = Project(folder)

    def open(self) -> AbstractAsyncContextManager[Store]:
        if self.address.startswith("sqlite:"):
            return open_sqlite_store(self.path)
        return open_mongo_store(self.address)

    @property
    def path(self) -> Path:
        return Path(self.address.removeprefix("sqlite:"))

    def store(self, action: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`retinue store ACTION`; on MongoDB the engine's command that this becomes."""
        if self.address.startswith("mongodb:"):
            arguments = [f"--store-{action}", *options]
            return self._project.process("retinue_engine", *arguments, RETINUE_STORE=self.address)
        return self._project.retinue("store", action, *options, "--store", self.address)

    def lose(self, session_id: str) -> None:
        """Lose the journals of a session's runs behind their first record."""
        if self.address.startswith("sqlite:"):
            with closing(sqlite3.connect(self.path)) as connection:
                connection.execute(
                    "DELETE FROM journal WHERE first_sequence > 1 AND root_run_id IN"
                    " (SELECT run_id FROM runs WHERE session_id = ?)",
                    (session_id,),
                )
                connection.commit()
            return
        database = self.database()
        for run in database["runs"].find({"session_id": session_id}):
            database["journal"].delete_many({"root_run_id": run["_id"], "first_sequence": {"$gt": 1}})
        database.client.close()

    def database(self) -> Any:
        client: MongoClient[Any] = MongoClient(self.address)
        return client.get_default_database()

    async def fill(self, *sessions: str, age_us: int = 48 * HOUR_US) -> None:
        """Sessions, each with one run that ended so long ago."""
        now_us = time.time_ns() // 1000
        async with self.open() as store:
            for session_id in sessions:
                run = make_run(session_id, create_us=now_us - age_us)
                first, last = [
                    service_pb2.StreamRunResponse(events=[event]).SerializeToString()
                    for event in (
                        event_pb2.RunEvent(sequence=1, run_started=event_pb2.RunStarted()),
                        event_pb2.RunEvent(sequence=2, run_finished=event_pb2.RunFinished()),
                    )
                ]
                await store.create_run(run, record(run, data=first), new_session=False)
                await store.append(record(run, 2, data=last), ends(end_of(run, "m1")))

    async def sessions(self) -> list[str]:
        async with self.open() as store:
            return sorted(each.session_id for each in await store.list_sessions("default", None, 100))


@pytest.fixture(params=["sqlite", "mongodb"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    address = f"sqlite:{tmp_path / 'engine.db'}"
    if request.param == "mongodb":
        address = request.getfixturevalue("fresh_uri")()
    return Kept(address, tmp_path / "shop")


async def test_a_store_without_problems_is_said_to_have_none(kept: Kept) -> None:
    await kept.fill("a", "b")
    done = kept.store("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(": no problems\n")
    assert "@" not in done.stdout
    assert json.loads(kept.store("check", "--json").stdout)["problems"] == []


async def test_every_problem_is_told_with_the_status_that_scripts_look_at(kept: Kept) -> None:
    await kept.fill("a", "b", "c")
    kept.lose("a")
    kept.lose("b")
    done = kept.store("check")
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert all("run-" in line and "RunFinished" in line for line in done.stdout.splitlines())
    problems = json.loads(kept.store("check", "--json").stdout)["problems"]
    assert problems == done.stdout.splitlines()


@pytest.mark.parametrize(
    ("limit", "goes"), [(["--days", "1"], ["old-1", "old-2"]), (["--keep", "2"], ["old-1"])]
)
async def test_old_and_surplus_sessions_are_listed_then_deleted(
    kept: Kept, limit: list[str], goes: list[str]
) -> None:
    await kept.fill("old-1", age_us=72 * HOUR_US)
    await kept.fill("old-2")
    await kept.fill("new", age_us=HOUR_US)
    listed = kept.store("prune", *limit, "--dry-run")
    assert listed.returncode == 0, listed.stderr
    *lines, total = listed.stdout.splitlines()
    assert lines == [f"default  {session_id}" for session_id in goes]
    assert total.endswith(f"would delete {len(goes)} session{'s' if len(goes) > 1 else ''}")
    facts = json.loads(kept.store("prune", *limit, "--dry-run", "--json").stdout)
    assert [each["session_id"] for each in facts["sessions"]] == goes
    assert await kept.sessions() == ["new", "old-1", "old-2"]
    assert json.loads(kept.store("prune", *limit, "--json").stdout) == {"deleted_sessions": len(goes)}
    assert await kept.sessions() == sorted({"new", "old-1", "old-2"} - set(goes))


def test_pruning_needs_to_know_what_to_keep(tmp_path: Path) -> None:
    kept = Kept(f"sqlite:{tmp_path / 'engine.db'}", tmp_path / "shop")
    done = kept.store("prune")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: say what to keep: --days N, --keep N")
    assert kept.store("prune", "--keep", "0").returncode == 2


def test_where_there_is_no_store_none_is_made(kept: Kept) -> None:
    for command in (["migrate"], ["check"], ["prune", "--days", "1"]):
        done = kept.store(*command)
        assert (done.returncode, done.stdout) == (1, "")
        assert "holds no store" in done.stderr
        assert done.stderr.count("\n") == 1
    if kept.address.startswith("sqlite:"):
        assert not kept.path.exists()
        return
    database = kept.database()
    assert database.list_collection_names() == []
    database.client.close()


async def test_an_older_store_is_left_alone_until_it_is_migrated(kept: Kept) -> None:
    if kept.address.startswith("sqlite:"):
        write_version_1(kept.path)
    else:
        await kept.fill("a")
        database = kept.database()
        database["meta"].delete_many({})
        database.client.close()
    for command in (["check"], ["prune", "--days", "1"]):
        done = kept.store(*command)
        assert done.returncode == 1
        assert "has version 1" in done.stderr
        assert "retinue store migrate" in done.stderr
    migrated = json.loads(kept.store("migrate", "--json").stdout)
    assert (migrated["from_version"], migrated["to_version"]) == (1, kept.newest)
    again = kept.store("migrate")
    assert (again.returncode, again.stdout.split(": ")[-1]) == (0, f"is at version {kept.newest} already\n")
    assert kept.store("prune", "--days", "30", "--dry-run").returncode == 0


async def test_while_an_engine_works_on_a_file_it_can_be_checked_and_not_pruned(tmp_path: Path) -> None:
    kept = Kept(f"sqlite:{tmp_path / 'engine.db'}", tmp_path / "shop")
    await kept.fill("a")
    async with kept.open():
        assert kept.store("check").returncode == 0
        assert f"at version {kept.newest} already" in kept.store("migrate").stdout
        refused = kept.store("prune", "--days", "1")
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"error: another engine works on {kept.path}: stop it")
        assert refused.stderr.count("\n") == 1


async def test_an_older_file_that_an_engine_holds_is_not_migrated(tmp_path: Path) -> None:
    kept = Kept(f"sqlite:{tmp_path / 'engine.db'}", tmp_path / "shop")
    await kept.fill("a")
    async with kept.open():
        with closing(sqlite3.connect(kept.path)) as connection:
            connection.execute("PRAGMA user_version = 1")
        refused = kept.store("migrate")
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: another engine works on")


def test_what_is_no_store_is_said_in_one_line(tmp_path: Path) -> None:
    garbage = Kept(f"sqlite:{tmp_path / 'garbage'}", tmp_path / "shop")
    garbage.path.write_bytes(os.urandom(8192))
    newer = Kept(f"sqlite:{tmp_path / 'newer'}", tmp_path / "shop")
    with closing(sqlite3.connect(newer.path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    wrong = Kept("postgres://here", tmp_path / "shop")
    nameless = Kept("mongodb://user:secret@127.0.0.1:1", tmp_path / "shop")
    for kept, status, words in (
        (garbage, 1, "cannot be read: file is not a database"),
        (newer, 1, f"has version 99, and this Retinue knows versions up to {newer.newest}"),
        (wrong, 2, "RETINUE_STORE: 'postgres://here' is not a store"),
        (nameless, 1, "names no database"),
    ):
        done = kept.store("check")
        assert (done.returncode, done.stdout) == (status, "")
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
        assert "secret" not in done.stderr
    assert json.loads(garbage.store("check", "--json").stderr)["error"]["message"]


def test_a_damaged_file_is_told_and_not_a_traceback(tmp_path: Path) -> None:
    kept = Kept(f"sqlite:{tmp_path / 'engine.db'}", tmp_path / "shop")
    write_version_1(kept.path)
    assert kept.store("migrate").returncode == 0
    data = bytearray(kept.path.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    kept.path.write_bytes(data)
    done = kept.store("check")
    assert done.returncode == 1
    assert "SQLite says: " in done.stdout
    assert "Traceback" not in done.stderr


def test_the_store_of_a_project_is_that_of_its_suite(tmp_path: Path) -> None:
    project = Project(tmp_path / "shop")
    with project.up() as up:
        assert project.retinue("run", "assistant", "hello", "-q").returncode == 0
        assert project.retinue("store", "check").stdout.endswith("engine.db: no problems\n")
        os.kill(up.pids["engine"], 9)
    # What a killed engine leaves beside the file is read, too.
    assert project.retinue("store", "check").stdout.endswith("engine.db: no problems\n")
    kept = project.retinue("store", "prune", "--keep", "1", "--dry-run")
    assert kept.stdout.endswith("engine.db: would delete 0 sessions\n")


def test_it_loads_no_engine() -> None:
    code = (
        "import sys, retinue_engine.stores.maintenance; print([m for m in ('aiohttp', 'jinja2', 'jsonschema',"
        " 'litellm', 'pymongo', 'retinue_engine.app') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.strip() == "[]"
