"""How the SQLite store writes: many writes in one transaction; a run accepted, appended to and claimed."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from retinue.errors import ClaimLostError, SessionBusyError, StoreUnavailableError
from retinue_engine.stores.rows import (
    NOW,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    BlobRow,
    Effects,
    JournalRecord,
    RunOutcome,
    RunRow,
    SessionTakenError,
    Suspension,
)
from retinue_engine.stores.sqlite.inputs import (
    close_inputs,
    insert_blobs,
    insert_inputs,
    is_answered,
    receive_inputs,
)
from retinue_engine.stores.sqlite.memories import insert_memory
from retinue_engine.stores.sqlite.runs import RUN_COLUMNS, read_run
from retinue_engine.stores.sqlite.sessions import add_to_step_session, end_turn, take_session

_run_values = attrgetter(*(column.name for column in fields(RunRow)))
_record_values = attrgetter(*(column.name for column in fields(JournalRecord)))
_MAX_TOGETHER = 100
"""Rows of one statement: SQLite takes 999 values at least."""
_INSERT_RUN = f"INTO runs ({RUN_COLUMNS}) VALUES ({', '.join('?' for _ in fields(RunRow))})"

Answer_co = TypeVar("Answer_co", covariant=True)


class Write(Protocol[Answer_co]):
    """One write, as a value."""

    def carry_out(self, connection: sqlite3.Connection) -> Answer_co:
        """Do it in the open transaction. What breaks a rule raises before it has changed anything."""


def commit(connection: sqlite3.Connection, writes: Sequence[Write[Any]]) -> list[Any]:
    """Carry out writes in one transaction; an answer or exception for each.

    One that fails by a rule leaves no trace and harms no other.
    """
    answers: list[Any] = []
    connection.execute("BEGIN IMMEDIATE")
    try:
        for plain, group in groupby(writes, _is_plain_append):
            together = list(group)
            if plain and _insert_records(connection, together):
                answers.extend([None] * len(together))
                continue
            for write in together:
                try:
                    answers.append(write.carry_out(connection))
                except (ClaimLostError, SessionBusyError, SessionTakenError) as broken_rule:
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


def _is_plain_append(write: Write[Any]) -> bool:
    return isinstance(write, AppendRecord) and write.effects is None


def _insert_records(connection: sqlite3.Connection, writes: Sequence[Write[Any]]) -> bool:
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


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Stores a run with its first record, as `Store.create_run` says."""

    run: RunRow
    first: JournalRecord
    blobs: Sequence[BlobRow]
    new_session: bool
    queue: bool
    reject_busy: bool

    def carry_out(self, connection: sqlite3.Connection) -> RunRow:
        """The run as it is stored."""
        run = self.run
        if run.request_id:
            # The last condition is the index's own: without it the index is not used.
            request = (run.namespace, run.request_id)
            known = read_run(connection, "namespace = ? AND request_id = ? AND request_id <> ''", request)
            if known:
                return known
        began = take_session(
            connection, run, new_session=self.new_session, queue=self.queue, reject_busy=self.reject_busy
        )
        run.state = RUN_STATE_RUNNING if began else RUN_STATE_QUEUED
        connection.execute(f"INSERT {_INSERT_RUN}", _run_values(run))
        _insert_record(connection, self.first)
        if self.blobs:
            insert_blobs(connection, self.blobs)
        return run


@dataclass(frozen=True, slots=True)
class AppendRecord:
    """Appends a record, and does what follows from it."""

    record: JournalRecord
    effects: Effects | None

    def carry_out(self, connection: sqlite3.Connection) -> None:
        """Raises ClaimLostError, and nothing follows then."""
        _insert_record(connection, self.record)
        effects = self.effects
        if effects is None:
            return
        root_run_id = self.record.root_run_id
        if effects.blobs:
            insert_blobs(connection, effects.blobs)
        for child in effects.children:
            connection.execute(f"INSERT OR IGNORE {_INSERT_RUN}", _run_values(child))
        if effects.inputs:
            insert_inputs(connection, effects.inputs)
        if effects.received:
            receive_inputs(connection, effects.received)
        for memory in effects.memories:
            insert_memory(connection, memory)
        for outcome in effects.outcomes:
            _end_run(connection, root_run_id, outcome)
        if effects.suspension:
            _suspend(connection, self.record.writer, effects.suspension)


def _end_run(connection: sqlite3.Connection, root_run_id: str, outcome: RunOutcome) -> None:
    ended = connection.execute(
        "UPDATE runs SET state = ?, end_us = ?, result = ? WHERE run_id = ? AND state < 5",
        (outcome.state, outcome.end_us, outcome.result, outcome.run_id),
    ).rowcount
    if not ended:
        return
    if outcome.base_session_id:
        add_to_step_session(connection, outcome)
    elif outcome.session_id:
        end_turn(connection, outcome)
    if outcome.closes_inputs:
        close_inputs(connection, root_run_id)


def _suspend(connection: sqlite3.Connection, writer: str, suspension: Suspension) -> None:
    # A word that the engine took and did not pass on must wake the run again: the engine may be gone.
    answered = any(is_answered(connection, input_id) for input_id in suspension.input_ids)
    attention_us = NOW if answered else suspension.attention_us
    # The same record again, after another claim has taken the tree up, suspends nothing.
    suspended = connection.execute(
        "UPDATE runs SET state = ?, attention_us = CASE WHEN attention_us = 0 OR cancel_reason IS NOT NULL"
        " OR (pause_reason IS NOT NULL) <> ? THEN 0 ELSE ? END"
        " WHERE run_id = ? AND state BETWEEN 2 AND 4 AND writer = ?",
        (
            suspension.state,
            suspension.state == RUN_STATE_PAUSED,
            attention_us,
            suspension.run_id,
            writer,
        ),
    ).rowcount
    if suspended:
        connection.execute(
            "UPDATE runs SET state = ? WHERE root_run_id = ? AND parent_run_id <> ''"
            " AND state BETWEEN 2 AND 4",
            (suspension.state, suspension.run_id),
        )


@dataclass(frozen=True, slots=True)
class ClaimRun:
    """Appends the record that takes a run over."""

    run_id: str
    record: JournalRecord

    def carry_out(self, connection: sqlite3.Connection) -> None:
        """Raises ClaimLostError where another was quicker."""
        _insert_record(connection, self.record)
        # Whoever is RUNNING keeps a word that was not heard: it is found again by `commanded_runs`.
        resumed = connection.execute(
            "UPDATE runs SET writer = ?, state = 2, attention_us = NULL WHERE run_id = ? AND state IN (3, 4)",
            (self.record.writer, self.run_id),
        ).rowcount
        if resumed:
            connection.execute(
                "UPDATE runs SET state = 2 WHERE root_run_id = ? AND parent_run_id <> '' AND state IN (3, 4)",
                (self.run_id,),
            )
            return
        connection.execute("UPDATE runs SET writer = ? WHERE run_id = ?", (self.record.writer, self.run_id))
