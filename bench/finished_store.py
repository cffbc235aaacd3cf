"""A SQLite file of the engine's with very many finished runs: real ones, multiplied."""

import json
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retinue_engine.stores.sqlite.schema import SCHEMA_VERSION, connect, migrate

_APART_US = 1_000
"""Between one run and the next."""
_LONG_AGO_US = 10**15
"""Numbers above it are times; below, durations."""
_SPREAD_32, _SPREAD_128 = 2_654_435_761, 0x9E3779B97F4A7C15F39CC0605CEDC835
"""Odd: multiplied by them, numbers that follow one another become ids without an order, each its own."""
_KEYS = {
    "runs": "run_id = :run_id",
    "journal": "root_run_id = :run_id",
    "sessions": "session_id = :session_id",
    "messages": "session_id = :session_id",
    "inputs": "root_run_id = :run_id",
}
"""Which rows of a table are a run's."""
_BY_SESSION = ("sessions", "messages")
"""Tables in the order of sessions, whose ids have none."""

MakeRuns = Callable[[Path], Awaitable[Sequence[str]]]
"""Makes real runs in a file that is not there yet, and returns their ids."""


def _run_id(create_us: int, number: int) -> str:
    return f"run-{create_us // 1000:012x}{number:012x}"


def _session_id(number: int) -> str:
    return f"agent-{number * _SPREAD_32 % 2**32:08x}"


@dataclass(frozen=True)
class FinishedStore:
    """Where the file is, and which runs it holds."""

    path: Path
    count: int
    first_us: int
    """When the first of them was made."""

    def run_id(self, number: int) -> str:
        """The id of one of the runs, counted from 0."""
        return _run_id(self.create_us(number), number)

    def session_id(self, number: int) -> str:
        """The session of the same run."""
        return _session_id(number)

    def create_us(self, number: int) -> int:
        """When it was made."""
        return self.first_us + number * _APART_US


@dataclass(frozen=True)
class _Rows:
    """A real run's rows of one table, as what every other run's are made of."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class _Pattern:
    """A real run that has ended."""

    ids: dict[str, str]
    """Its run_id, session_id, request_id and input_id; empty where it has none."""
    create_us: int
    tables: dict[str, _Rows] = field(repr=False)

    def copy(self, table: str, create_us: int, ids: dict[str, str]) -> Iterator[list[Any]]:
        """The rows of a run with other ids, of the same lengths, at another time."""
        rows = self.tables[table]
        swaps = [(self.ids[name], new) for name, new in ids.items() if self.ids[name]]
        shift_us = create_us - self.create_us
        for row in rows.rows:
            made = list(row)
            for at, value in enumerate(row):
                if isinstance(value, str):
                    for old, new in swaps:
                        made[at] = made[at].replace(old, new)
                elif isinstance(value, bytes):
                    for old, new in swaps:
                        made[at] = made[at].replace(old.encode(), new.encode())
                elif rows.columns[at].endswith("_us") and value and value > _LONG_AGO_US:
                    made[at] += shift_us
            yield made


def _read_pattern(connection: sqlite3.Connection, run_id: str) -> _Pattern:
    connection.row_factory = sqlite3.Row
    run = connection.execute("SELECT * FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    asked = connection.execute("SELECT input_id FROM inputs WHERE root_run_id = ?", (run_id,)).fetchone()
    ids = {
        "run_id": run_id,
        "session_id": run["session_id"],
        "request_id": run["request_id"],
        "input_id": asked["input_id"] if asked else "",
    }
    tables = {}
    for table, where in _KEYS.items():
        found = connection.execute(f"SELECT * FROM {table} WHERE {where}", ids)
        columns = [column[0] for column in found.description]
        tables[table] = _Rows(columns, [tuple(row) for row in found])
    return _Pattern(ids, run["create_us"], tables)


async def open_finished(folder: Path, count: int, make_runs: MakeRuns) -> FinishedStore:
    """The file of so many runs, made where it is not there yet; what later runs left in it is removed."""
    path = folder / f"finished-{count}-schema-{SCHEMA_VERSION}.db"
    facts = path.with_suffix(".json")
    if not (path.exists() and facts.exists()):
        print(f"making a store of {count:,} finished runs, once ...", file=sys.stderr)
        first_us = await _make(path, count, make_runs)
        facts.write_text(json.dumps({"first_us": first_us}))
    store = FinishedStore(path, count, json.loads(facts.read_text())["first_us"])
    _remove_later(store)
    return store


async def _make(path: Path, count: int, make_runs: MakeRuns) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    small, whole = path.with_suffix(".small"), path.with_suffix(".part")
    for each in (small, whole):
        for part in each.parent.glob(f"{each.name}*"):
            part.unlink()
    run_ids = await make_runs(small)
    with closing(sqlite3.connect(small)) as reading:
        patterns = [_read_pattern(reading, run_id) for run_id in run_ids]
    first_us = time.time_ns() // 1000 - (count + 1) * _APART_US
    with closing(connect(whole)) as connection:
        migrate(connection, whole)
        _fill(connection, patterns, FinishedStore(whole, count, first_us))
    for part in small.parent.glob(f"{small.name}*"):
        part.unlink()
    whole.rename(path)
    return first_us


def _fill(connection: sqlite3.Connection, patterns: Sequence[_Pattern], store: FinishedStore) -> None:
    """Write the copies, table by table in the order of its key, and the indexes at the end."""
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -1000000")
    indexes = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql <> ''")
    statements = indexes.fetchall()
    for name, _ in statements:
        connection.execute(f"DROP INDEX {name}")
    connection.execute("BEGIN")
    for table in _KEYS:
        numbers: Iterable[int] = range(store.count)
        if table in _BY_SESSION:
            numbers = sorted(numbers, key=_session_id)
        columns = patterns[0].tables[table].columns
        connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})",
            _copies(patterns, table, store, numbers),
        )
    for _, sql in statements:
        connection.execute(sql)
    connection.execute("COMMIT")


def _copies(
    patterns: Sequence[_Pattern], table: str, store: FinishedStore, numbers: Iterable[int]
) -> Iterator[list[Any]]:
    for number in numbers:
        ids = {
            "run_id": store.run_id(number),
            "session_id": store.session_id(number),
            "request_id": f"{number * _SPREAD_128 % 2**128:032x}",
            "input_id": f"input-{number * _SPREAD_32:016x}",
        }
        yield from patterns[number % len(patterns)].copy(table, store.create_us(number), ids)


def _remove_later(store: FinishedStore) -> None:
    """Remove what was added to the file since it was made."""
    last, last_us = store.run_id(store.count - 1), store.create_us(store.count - 1)
    later = "(SELECT session_id FROM sessions WHERE namespace = 'default' AND create_us > ?)"
    with closing(connect(store.path)) as connection:
        for table in ("journal", "inputs"):
            connection.execute(f"DELETE FROM {table} WHERE root_run_id > ?", (last,))
        connection.execute("DELETE FROM runs WHERE run_id > ?", (last,))
        for table in ("messages", "sessions"):
            connection.execute(
                f"DELETE FROM {table} WHERE namespace = 'default' AND session_id IN {later}", (last_us,)
            )
