"""What the SQLite store writes: each write as a value, and how it is carried out inside a transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import attrgetter
from typing import TypeAlias

from retinue.errors import ClaimLostError, StoreUnavailableError
from retinue_engine.store import (
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    JournalRecord,
    RunOutcome,
    RunRow,
    SessionTakenError,
)

RUN_COLUMNS = ", ".join(column.name for column in fields(RunRow))
_run_values = attrgetter(*(column.name for column in fields(RunRow)))
_record_values = attrgetter(*(column.name for column in fields(JournalRecord)))
_MAX_TOGETHER = 100
"""Rows of one statement: SQLite takes 999 values at least."""
_RUN_VALUES = ", ".join("?" for _ in fields(RunRow))


@dataclass(frozen=True, slots=True)
class CreateRun:
    run: RunRow
    first: JournalRecord
    new_session: bool


@dataclass(frozen=True, slots=True)
class AppendRecord:
    record: JournalRecord
    outcome: RunOutcome | None


@dataclass(frozen=True, slots=True)
class ClaimRun:
    run_id: str
    record: JournalRecord


@dataclass(frozen=True, slots=True)
class CancelRun:
    namespace: str
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BeginNext:
    namespace: str
    session_id: str


Write: TypeAlias = CreateRun | AppendRecord | ClaimRun | CancelRun | BeginNext
Written: TypeAlias = RunRow | None


def commit(connection: sqlite3.Connection, writes: Sequence[Write]) -> list[Written | Exception]:
    """Carry out writes in one transaction. One that fails by a rule leaves no trace and harms no other."""
    answers: list[Written | Exception] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for plain, group in groupby(writes, _is_plain_append):
            together = list(group)
            if plain and _insert_records(connection, together):
                answers.extend([None] * len(together))
                continue
            for write in together:
                try:
                    answers.append(_CARRY_OUT[type(write)](connection, write))
                except (ClaimLostError, SessionTakenError) as broken_rule:
                    answers.append(broken_rule)
        connection.execute("COMMIT")
    except Exception as error:
        # Whatever it is: a transaction that is left open would fail every later one.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if not isinstance(error, sqlite3.Error):
            raise
        raise StoreUnavailableError(
            f"the SQLite store refused a write: {error}; see that the disk has room", store="sqlite"
        ) from error
    return answers


def _is_plain_append(write: Write) -> bool:
    return isinstance(write, AppendRecord) and write.outcome is None


def _insert_records(connection: sqlite3.Connection, writes: Sequence[Write]) -> bool:
    """Insert the records of plain appends by one statement: each statement hands the interpreter over.

    False where one was there already: then each must be looked at, and what is inserted now does no harm.
    """
    records = [write.record for write in writes if isinstance(write, AppendRecord)]
    if not 1 < len(records) <= _MAX_TOGETHER:
        return False
    marks = ", ".join(["(?, ?, ?, ?, ?)"] * len(records))
    values = [value for record in records for value in _record_values(record)]
    made = connection.execute(f"INSERT OR IGNORE INTO journal VALUES {marks}", values).rowcount  # noqa: S608 - marks alone
    return made == len(records)


def read_run(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> RunRow | None:
    """The first run that fits a condition."""
    row = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where} LIMIT 1", values).fetchone()  # noqa: S608 - conditions are ours
    return RunRow(*row) if row else None


def _create_run(connection: sqlite3.Connection, write: CreateRun) -> RunRow:
    run = write.run
    if run.request_id:
        # The last condition is the index's own: without it the index is not used.
        request = (run.namespace, run.request_id)
        known = read_run(connection, "namespace = ? AND request_id = ? AND request_id <> ''", request)
        if known:
            return known
    made = connection.execute(
        "INSERT OR IGNORE INTO sessions VALUES (?, ?, 0, ?, ?, ?)",
        (run.namespace, run.session_id, run.create_us, run.create_us, run.run_id),
    ).rowcount
    if not made:
        if write.new_session:
            raise SessionTakenError
        made = connection.execute(
            "UPDATE sessions SET active_run_id = ?1 WHERE namespace = ?2 AND session_id = ?3"
            " AND active_run_id IS NULL AND NOT EXISTS (SELECT 1 FROM runs"
            " WHERE state < 5 AND state = 1 AND namespace = ?2 AND session_id = ?3)",
            (run.run_id, run.namespace, run.session_id),
        ).rowcount
    run.state = RUN_STATE_RUNNING if made else RUN_STATE_QUEUED
    connection.execute(f"INSERT INTO runs ({RUN_COLUMNS}) VALUES ({_RUN_VALUES})", _run_values(run))  # noqa: S608 - columns are ours
    _insert_record(connection, write.first)
    return run


def _insert_record(connection: sqlite3.Connection, record: JournalRecord) -> None:
    made = connection.execute(
        "INSERT OR IGNORE INTO journal VALUES (?, ?, ?, ?, ?)",
        _record_values(record),
    ).rowcount
    if made:
        return
    stored = connection.execute(
        "SELECT writer, data FROM journal WHERE root_run_id = ? AND first_sequence = ?",
        (record.root_run_id, record.first_sequence),
    ).fetchone()
    if stored != (record.writer, record.data):
        raise ClaimLostError(f"another engine has taken over {record.root_run_id}", run_id=record.root_run_id)


def _append(connection: sqlite3.Connection, write: AppendRecord) -> None:
    _insert_record(connection, write.record)
    outcome = write.outcome
    if outcome is None:
        return
    changed = connection.execute(
        "UPDATE runs SET state = ?, end_us = ?, result = ? WHERE run_id = ? AND state < 5",
        (outcome.state, outcome.end_us, outcome.result, outcome.run_id),
    ).rowcount
    if not changed:
        return
    session = (outcome.namespace, outcome.session_id)
    (count,) = connection.execute(
        "SELECT message_count FROM sessions WHERE namespace = ? AND session_id = ?", session
    ).fetchone()
    rows = [
        (*session, position, outcome.run_id, message, outcome.end_us)
        for position, message in enumerate(outcome.messages, count + 1)
    ]
    for start in range(0, len(rows), _MAX_TOGETHER):
        some = rows[start : start + _MAX_TOGETHER]
        marks = ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(some))
        values = [value for row in some for value in row]
        connection.execute(f"INSERT INTO messages VALUES {marks}", values)  # noqa: S608 - marks alone
    connection.execute(
        "UPDATE sessions SET message_count = ?, update_us = ?,"
        " active_run_id = CASE active_run_id WHEN ? THEN NULL ELSE active_run_id END"
        " WHERE namespace = ? AND session_id = ?",
        (count + len(outcome.messages), outcome.end_us, outcome.run_id, *session),
    )


def _claim(connection: sqlite3.Connection, write: ClaimRun) -> None:
    _insert_record(connection, write.record)
    connection.execute("UPDATE runs SET writer = ? WHERE run_id = ?", (write.record.writer, write.run_id))


def _cancel(connection: sqlite3.Connection, write: CancelRun) -> RunRow | None:
    connection.execute(
        "UPDATE runs SET cancel_reason = ? WHERE namespace = ? AND run_id = ? AND state < 5"
        " AND cancel_reason IS NULL",
        (write.reason, write.namespace, write.run_id),
    )
    return read_run(connection, "namespace = ? AND run_id = ?", (write.namespace, write.run_id))


def _begin_next(connection: sqlite3.Connection, write: BeginNext) -> RunRow | None:
    session = (write.namespace, write.session_id)
    run = read_run(
        connection,
        "state < 5 AND state = 1 AND namespace = ? AND session_id = ?"
        " AND EXISTS (SELECT 1 FROM sessions AS s WHERE s.namespace = runs.namespace"
        " AND s.session_id = runs.session_id AND s.active_run_id IS NULL)"
        " ORDER BY create_us, run_id",
        session,
    )
    if run is None:
        return None
    connection.execute(
        "UPDATE sessions SET active_run_id = ? WHERE namespace = ? AND session_id = ?",
        (run.run_id, *session),
    )
    connection.execute("UPDATE runs SET state = ? WHERE run_id = ?", (RUN_STATE_RUNNING, run.run_id))
    run.state = RUN_STATE_RUNNING
    return run


_CARRY_OUT: dict[type, Callable[[sqlite3.Connection, "object"], Written]] = {
    CreateRun: _create_run,  # type: ignore[dict-item]
    AppendRecord: _append,  # type: ignore[dict-item]
    ClaimRun: _claim,  # type: ignore[dict-item]
    CancelRun: _cancel,  # type: ignore[dict-item]
    BeginNext: _begin_next,  # type: ignore[dict-item]
}
