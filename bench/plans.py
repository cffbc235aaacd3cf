"""Whether a SQLite file of the engine's is only ever read by an index."""

import sqlite3
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.contract.engine_store.using import use_everything

from retinue_engine.stores.sqlite.store import open_sqlite_store

_OF_FEW = ("runs_commanded", "runs_queued", "runs_queued_session")
"""Indexes of runs that have not ended: however many have, reading one to its end is short."""


async def _statements() -> set[str]:
    """Every statement of a use of everything that a store can do."""
    found: set[str] = set()
    with TemporaryDirectory(prefix="retinue-bench-") as made:
        async with open_sqlite_store(Path(made) / "engine.db") as store:
            for connection in (store._reader, store._writer._commit.args[0]):  # type: ignore[attr-defined]  # noqa: SLF001 - what it says to SQLite is the subject
                connection.set_trace_callback(found.add)
            await use_everything(store)
            store._reader.set_trace_callback(None)  # noqa: SLF001 - see above
    return {each for each in found if not each.startswith(("BEGIN", "COMMIT", "ROLLBACK"))}


async def scans(path: Path) -> tuple[int, list[str]]:
    """How many statements the store has, and those of them that read a whole table of this file."""
    statements = await _statements()
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return len(statements), [each for each in sorted(statements) if _scans(connection, each)]


def _scans(connection: sqlite3.Connection, statement: str) -> bool:
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    made = [step.split()[1] for step in steps if step.startswith(("CO-ROUTINE", "MATERIALIZE"))]
    return any(
        step.startswith("SCAN")
        and "CONSTANT ROW" not in step
        and step.split()[1] not in made
        and not step.endswith(_OF_FEW)
        for step in steps
    )
