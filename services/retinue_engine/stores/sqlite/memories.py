"""Texts that are kept, in the SQLite store: each with the terms by which it is found."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retinue_engine.memory import MemoryRow, label_terms

_SELECT = (
    "SELECT m.namespace, m.memory_id, m.text, m.labels, m.create_us, m.expire_us, m.run_id FROM memories AS m"
)
_IS_KEPT = "(m.expire_us IS NULL OR m.expire_us > ?)"
_HAS_TERM = (
    " AND EXISTS (SELECT 1 FROM memory_terms AS l WHERE l.namespace = m.namespace AND l.term = ?"
    " AND l.create_us = m.create_us AND l.memory_id = m.memory_id)"
)
_FORGOTTEN_AT_ONCE = 100


def _row(row: tuple[Any, ...]) -> MemoryRow:
    namespace, memory_id, text, labels, *rest = row
    return MemoryRow(namespace, memory_id, text, json.loads(labels), *rest)


def get_memory(
    connection: sqlite3.Connection, namespace: str, memory_id: str, now_us: int
) -> MemoryRow | None:
    """A text; None where there is none."""
    found = connection.execute(
        f"{_SELECT} WHERE m.namespace = ? AND m.memory_id = ? AND {_IS_KEPT}", (namespace, memory_id, now_us)
    ).fetchone()
    return _row(found) if found else None


def list_memories(
    connection: sqlite3.Connection,
    namespace: str,
    labels: Mapping[str, str],
    before: tuple[int, str] | None,
    limit: int,
    now_us: int,
) -> list[MemoryRow]:
    """As `Store.list_memories` says."""
    terms = label_terms(labels)
    rows = connection.execute(
        f"{_SELECT} WHERE m.namespace = ? AND (m.create_us, m.memory_id) < (?, ?) AND {_IS_KEPT}"
        f"{_HAS_TERM * len(terms)} ORDER BY m.create_us DESC, m.memory_id DESC LIMIT ?",
        (namespace, *(before or (2**62, "")), now_us, *terms, limit),
    )
    return [_row(row) for row in rows]


def search_memories(
    connection: sqlite3.Connection,
    namespace: str,
    words: Sequence[str],
    labels: Mapping[str, str],
    limit: int,
    now_us: int,
) -> list[MemoryRow]:
    """As `Store.search_memories` says."""
    terms = label_terms(labels)
    marks = ", ".join("?" for _ in words)
    rows = connection.execute(
        f"{_SELECT} JOIN (SELECT namespace, memory_id, create_us, count(*) AS score FROM memory_terms"  # noqa: S608 - marks alone
        f" WHERE namespace = ? AND term IN ({marks}) GROUP BY memory_id, create_us) AS t"
        " ON m.namespace = t.namespace AND m.memory_id = t.memory_id"
        f" WHERE {_IS_KEPT}{_HAS_TERM * len(terms)}"
        " ORDER BY t.score DESC, m.create_us DESC, m.memory_id DESC LIMIT ?",
        (namespace, *words, now_us, *terms, limit),
    )
    return [_row(row) for row in rows]


def insert_memory(connection: sqlite3.Connection, row: MemoryRow) -> None:
    """Keep a text; one that is known stays as it is. What nobody may find any more is forgotten for it."""
    values = (
        row.namespace,
        row.memory_id,
        row.text,
        json.dumps(dict(row.labels), ensure_ascii=False),
        row.create_us,
        row.expire_us,
        row.run_id,
    )
    made = connection.execute("INSERT OR IGNORE INTO memories VALUES (?, ?, ?, ?, ?, ?, ?)", values).rowcount
    if not made:
        return
    connection.executemany(
        "INSERT OR IGNORE INTO memory_terms VALUES (?, ?, ?, ?)",
        [(row.namespace, term, row.create_us, row.memory_id) for term in row.terms],
    )
    expired = connection.execute(
        f"{_SELECT} WHERE m.expire_us <= ? LIMIT ?", (row.create_us, _FORGOTTEN_AT_ONCE)
    ).fetchall()
    for each in expired:
        _delete(connection, _row(each))


def _delete(connection: sqlite3.Connection, row: MemoryRow) -> None:
    connection.executemany(
        "DELETE FROM memory_terms WHERE namespace = ? AND term = ? AND create_us = ? AND memory_id = ?",
        [(row.namespace, term, row.create_us, row.memory_id) for term in row.terms],
    )
    connection.execute(
        "DELETE FROM memories WHERE namespace = ? AND memory_id = ?", (row.namespace, row.memory_id)
    )


@dataclass(frozen=True, slots=True)
class WriteMemory:
    """Keeps a text."""

    row: MemoryRow

    def carry_out(self, connection: sqlite3.Connection) -> MemoryRow:
        """The text as it is stored."""
        known = get_memory(connection, self.row.namespace, self.row.memory_id, self.row.create_us)
        if known is None:
            insert_memory(connection, self.row)
        return known or self.row


@dataclass(frozen=True, slots=True)
class DeleteMemory:
    """Forgets a text."""

    namespace: str
    memory_id: str

    def carry_out(self, connection: sqlite3.Connection) -> bool:
        """Whether there was one."""
        known = get_memory(connection, self.namespace, self.memory_id, 0)
        if known is not None:
            _delete(connection, known)
        return known is not None
