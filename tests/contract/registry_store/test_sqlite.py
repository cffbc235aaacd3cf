"""What only the SQLite store promises."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from retinue.errors import StoreUnavailableError
from retinue_registry.component import ApiSource, FileSource, Key, Layer, Version
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import RequestRecord

from .rows import fill, key, version

_VERSION_1 = """
PRAGMA journal_mode = WAL;
CREATE TABLE meta (one INTEGER PRIMARY KEY CHECK (one = 1), revision INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES (1, 2);
CREATE TABLE component_versions (
  revision INTEGER PRIMARY KEY, namespace TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
  version INTEGER NOT NULL, etag TEXT NOT NULL, labels TEXT NOT NULL, spec BLOB NOT NULL, source_path TEXT,
  source_line INTEGER, create_time_us INTEGER NOT NULL, update_time_us INTEGER NOT NULL,
  deleted INTEGER NOT NULL, UNIQUE (namespace, kind, name, version)
) STRICT;
CREATE INDEX component_versions_by_namespace ON component_versions (namespace, revision);
CREATE TABLE requests (
  namespace TEXT NOT NULL, request_id TEXT NOT NULL, digest BLOB NOT NULL, outcomes TEXT NOT NULL,
  revision INTEGER NOT NULL, time_us INTEGER NOT NULL, PRIMARY KEY (namespace, request_id)
) STRICT, WITHOUT ROWID;
INSERT INTO component_versions VALUES
  (1, 'default', 'llm', 'fast', 1, 'e1', '{"team": "x"}', x'01', 'llms.yaml', 3, 10, 10, 0),
  (2, 'default', 'agent', 'a', 1, 'e2', '{}', x'02', NULL, NULL, 20, 20, 0);
INSERT INTO requests VALUES ('default', 'r', x'03', '[[2, "created"]]', 2, 20);
PRAGMA user_version = 1;
"""
"""A file as the first version left it."""


async def test_a_file_of_the_first_version_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as old:
        old.executescript(_VERSION_1)
    fast = Version(
        Key("default", "llm", "fast"), 1, 1, "e1", {"team": "x"}, b"\x01", FileSource("llms.yaml", 3), 10, 10
    )
    assistant = Version(Key("default", "agent", "a"), 1, 2, "e2", {}, b"\x02", ApiSource(), 20, 20)
    for _ in range(2):
        async with open_sqlite_store(path) as store:
            assert await store.at([1, 2]) == [fast, assistant]
            assert fast.source == FileSource("llms.yaml", 3, Layer.PROJECT, "")
            known = RequestRecord("default", "r", b"\x03", [(2, "created")], 2, 20)
            assert await store.request("default", "r") == known
            assert (await store.revision(), await store.compacted_revision()) == (2, 0)
    async with open_sqlite_store(path) as store:
        await fill(store, version(key("b"), 1, 3))
        assert await store.remove_versions(key("fast"), 2, 10) == 1


async def test_a_file_has_one_registry(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    async with open_sqlite_store(path):
        with pytest.raises(StoreUnavailableError, match="in use by another registry"):
            async with open_sqlite_store(path):
                pytest.fail("two registries have one file")
    async with open_sqlite_store(path):
        pass


async def test_a_file_of_a_newer_version_or_of_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreUnavailableError, match=r"newer Retinue \(layout 99"):
        async with open_sqlite_store(path):
            pytest.fail("it was opened")
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailableError, match=r"registry\.db"):
        async with open_sqlite_store(path):
            pytest.fail("it was opened")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="RETINUE_DATA_DIR"):
        async with open_sqlite_store(tmp_path / "file" / "registry.db"):
            pytest.fail("it was opened")
