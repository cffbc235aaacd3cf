"""What only the SQLite store promises."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from retinue.errors import StoreUnavailableError
from retinue_engine.stores.sqlite.store import SqliteStore, open_sqlite_store

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


_OF_FEW = ("runs_commanded", "runs_queued", "runs_queued_session")


def _is_small(step: str, plan: list[str]) -> bool:
    """Whether what is scanned is no table: rows that the statement itself makes, or an index of few."""
    made = [each.split()[1] for each in plan if each.startswith(("CO-ROUTINE", "MATERIALIZE"))]
    return "CONSTANT ROW" in step or step.split()[1] in made or step.endswith(_OF_FEW)


async def _plans(tmp_path: Path) -> dict[str, list[str]]:
    """How SQLite carries out each statement of a use of everything."""
    statements: set[str] = set()
    async with open_sqlite_store(tmp_path / "engine.db") as store:
        assert isinstance(store, SqliteStore)
        for connection in (store._reader, store._writer._commit.args[0]):  # type: ignore[attr-defined]
            connection.set_trace_callback(statements.add)
        await use_everything(store)
        store._reader.set_trace_callback(None)
    with closing(sqlite3.connect(tmp_path / "engine.db")) as explaining:
        return {
            statement: [row[3] for row in explaining.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in statements
            if not statement.startswith(("BEGIN", "COMMIT", "ROLLBACK"))
        }


async def test_every_statement_uses_an_index(tmp_path: Path) -> None:
    plans = await _plans(tmp_path)
    assert len(plans) > 60
    for statement, plan in plans.items():
        scans = [step for step in plan if step.startswith("SCAN") and not _is_small(step, plan)]
        assert not scans, (statement, plan)


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("state = 4 AND (create_us", "runs_unfinished (state=? AND namespace=? AND (create_us,run_id)<"),
        ("state = 6 AND (create_us", "runs_unsuccessful (state=? AND namespace=? AND (create_us,run_id)<"),
        ("parent_run_id <> '' AND root_run_id = ", "runs_children (root_run_id=?"),
        ("attention_us <= ", "runs_due (attention_us"),
        ("expire_us <= ", "runs_expiring (expire_us"),
        ("SELECT run_id FROM runs WHERE state = 2 AND attention_us = 0", "COVERING INDEX runs_commanded"),
        ("SELECT count(*) FROM runs WHERE state = 1", "COVERING INDEX runs_queued_session"),
        ("SELECT min(namespace) FROM runs", "COVERING INDEX runs_queued_session"),
        ("FROM runs AS q", "q USING COVERING INDEX runs_queued (namespace=?"),
        ("+state = 1", "inputs_root (root_run_id=?"),
        ("AND state = 1 AND (create_us, input_id)", "inputs_pending (namespace=? AND (create_us,input_id)<"),
        ("s.update_us < ", "sessions_used (namespace=? AND update_us<?"),
    ],
)
async def test_what_is_few_among_many_is_found_by_an_index_of_its_own(
    tmp_path: Path, asked: str, index: str
) -> None:
    plans = await _plans(tmp_path)
    found = [plan for statement, plan in plans.items() if asked in statement]
    assert found
    for plan in found:
        assert any(index in step for step in plan), plan
        assert not any("TEMP B-TREE" in step for step in plan), plan
