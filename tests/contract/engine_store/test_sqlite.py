"""What only the SQLite store promises."""

import sqlite3
from pathlib import Path

import pytest

from retinue.errors import StoreUnavailableError
from retinue_engine.store_sqlite import SqliteStore, open_sqlite_store

from .using import use_everything


async def test_a_second_engine_on_the_file_is_told_what_to_do(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "engine.db"):
        with pytest.raises(
            StoreUnavailableError, match=r"another engine works on .*engine\.db.*RETINUE_STORE"
        ):
            async with open_sqlite_store(tmp_path / "engine.db"):
                pass
    async with open_sqlite_store(tmp_path / "engine.db"):
        pass


async def test_a_file_of_another_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ValueError, match="schema 99"):
        async with open_sqlite_store(path):
            pass


async def test_every_statement_uses_an_index(tmp_path: Path) -> None:
    statements: set[str] = set()
    async with open_sqlite_store(tmp_path / "engine.db") as store:
        assert isinstance(store, SqliteStore)
        for connection in (store._reader, store._writer._commit.args[0]):  # type: ignore[attr-defined]
            connection.set_trace_callback(statements.add)
        await use_everything(store)
        store._reader.set_trace_callback(None)
    assert len(statements) > 20
    connection = sqlite3.connect(tmp_path / "engine.db")
    try:
        for statement in statements:
            if statement.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
                continue
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            scans = [step for step in plan if step.startswith("SCAN") and "CONSTANT ROW" not in step]
            assert not scans, (statement, plan)
    finally:
        connection.close()
