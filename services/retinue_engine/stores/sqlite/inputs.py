"""Requests for input and blobs in the SQLite store."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

from retinue.engine.v1.input_pb2 import INPUT_STATE_ANSWERED, INPUT_STATE_CLOSED
from retinue_engine.stores.rows import NOW, BlobRow, InputRow

_INPUT_COLUMNS = ", ".join(column.name for column in fields(InputRow))
_BLOB_COLUMNS = ", ".join(column.name for column in fields(BlobRow))
_input_values = attrgetter(*(column.name for column in fields(InputRow)))
_blob_values = attrgetter(*(column.name for column in fields(BlobRow)))
_IS_PENDING = "state = 1"


def _read_inputs(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[InputRow]:
    rows = connection.execute(f"SELECT {_INPUT_COLUMNS} FROM inputs WHERE {where}", values)  # noqa: S608 - conditions are ours
    return [InputRow(*(*row, bool(received))) for *row, received in rows]


def get_input(connection: sqlite3.Connection, namespace: str, input_id: str) -> InputRow | None:
    """A request for input; None where there is none."""
    found = _read_inputs(connection, "input_id = ? AND namespace = ?", (input_id, namespace))
    return found[0] if found else None


def list_inputs(
    connection: sqlite3.Connection,
    namespace: str,
    root_run_id: str,
    before: tuple[int, str] | None,
    limit: int,
    *,
    closed: bool,
) -> list[InputRow]:
    """As `Store.list_inputs` says."""
    conditions, values = ["namespace = ?"], [namespace]
    if root_run_id:
        conditions.append("root_run_id = ?")
        values.append(root_run_id)
    if not closed:
        # A tree has few: the plus keeps SQLite from reading all that are pending.
        conditions.append(f"+{_IS_PENDING}" if root_run_id else _IS_PENDING)
    return _read_inputs(
        connection,
        f"{' AND '.join(conditions)} AND (create_us, input_id) < (?, ?)"
        " ORDER BY create_us DESC, input_id DESC LIMIT ?",
        (*values, *(before or (2**62, "")), limit),
    )


def answered_inputs(connection: sqlite3.Connection, root_run_id: str) -> list[InputRow]:
    """ANSWERED requests of a tree whose answer its journal does not have, the oldest first."""
    return _read_inputs(
        connection,
        "root_run_id = ? AND state = ? AND NOT received ORDER BY create_us, input_id",
        (root_run_id, INPUT_STATE_ANSWERED),
    )


def is_answered(connection: sqlite3.Connection, input_id: str) -> bool:
    """Whether a request for input has its answer."""
    which = (input_id, INPUT_STATE_ANSWERED)
    return bool(connection.execute("SELECT 1 FROM inputs WHERE input_id = ? AND state = ?", which).fetchone())


def insert_inputs(connection: sqlite3.Connection, inputs: Sequence[InputRow]) -> None:
    """Store requests for input; those that are known stay as they are."""
    marks = ", ".join("?" for _ in fields(InputRow))
    connection.executemany(
        f"INSERT OR IGNORE INTO inputs ({_INPUT_COLUMNS}) VALUES ({marks})",  # noqa: S608 - columns are ours
        [_input_values(each) for each in inputs],
    )


def receive_inputs(connection: sqlite3.Connection, input_ids: Sequence[str]) -> None:
    """Note that the journal has the answers of these; one that is still pending has expired."""
    connection.executemany(
        "UPDATE inputs SET received = 1, state = CASE state WHEN 1 THEN ? ELSE state END WHERE input_id = ?",
        [(INPUT_STATE_CLOSED, input_id) for input_id in input_ids],
    )


def close_inputs(connection: sqlite3.Connection, root_run_id: str) -> None:
    """Close what is pending of a tree that has ended."""
    connection.execute(
        f"UPDATE inputs SET state = ? WHERE root_run_id = ? AND {_IS_PENDING}",  # noqa: S608 - all of it is ours
        (INPUT_STATE_CLOSED, root_run_id),
    )


@dataclass(frozen=True, slots=True)
class AnswerInput:
    """Stores the answer of a pending request and wakes its run."""

    namespace: str
    input_id: str
    answer: bytes

    def carry_out(self, connection: sqlite3.Connection) -> InputRow | None:
        """The request afterwards; None where there is none."""
        connection.execute(
            f"UPDATE inputs SET state = ?, answer = ? WHERE input_id = ? AND namespace = ? AND {_IS_PENDING}",  # noqa: S608 - all of it is ours
            (INPUT_STATE_ANSWERED, self.answer, self.input_id, self.namespace),
        )
        stored = get_input(connection, self.namespace, self.input_id)
        if stored and stored.state == INPUT_STATE_ANSWERED and stored.answer == self.answer:
            connection.execute(
                "UPDATE runs SET attention_us = ? WHERE run_id = ? AND state < 5", (NOW, stored.root_run_id)
            )
        return stored


def insert_blobs(connection: sqlite3.Connection, blobs: Sequence[BlobRow]) -> None:
    """Store blobs; those that are known stay as they are."""
    connection.executemany(
        f"INSERT OR IGNORE INTO blobs ({_BLOB_COLUMNS}) VALUES (?, ?, ?, ?, ?)",  # noqa: S608 - columns are ours
        [_blob_values(each) for each in blobs],
    )


def get_blob(connection: sqlite3.Connection, root_run_id: str, blob_id: str) -> BlobRow | None:
    """A blob; None where there is none."""
    row = connection.execute(
        f"SELECT {_BLOB_COLUMNS} FROM blobs WHERE root_run_id = ? AND blob_id = ?",  # noqa: S608 - columns are ours
        (root_run_id, blob_id),
    ).fetchone()
    return BlobRow(*row) if row else None
