"""Sessions in the SQLite store: whose turn it is, what their runs have used, their labels and their end."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from retinue.errors import SessionBusyError
from retinue_engine.stores.rows import MessageRow, RunOutcome, RunRow, SessionRow, SessionTakenError, Totals
from retinue_engine.stores.sqlite.runs import IS_QUEUED, IS_ROOT, has_queued

_TOTALS = tuple(column.name for column in fields(Totals))
_totals_values = attrgetter(*_TOTALS)
_OWN = ("namespace", "session_id", "message_count", "create_us", "update_us", "active_run_id", "labels")
_SELECT = f"SELECT {', '.join(f's.{name}' for name in (*_OWN, *_TOTALS, 'base_session_id'))}"
_ADD_TOTALS = ", ".join(
    f"{name} = max({name}, ?)" if name == "unknown_cost" else f"{name} = {name} + ?" for name in _TOTALS
)
_MAX_TOGETHER = 100
"""Messages of one statement: SQLite takes 999 values at least."""

_OF_NO_STEP = "s.base_session_id = ''"
_OF_STEPS = "s.base_session_id <> ''"
_IS_IDLE = (
    "s.active_run_id IS NULL AND NOT EXISTS (SELECT 1 FROM runs"  # noqa: S608 - all of it is ours
    f" WHERE {IS_QUEUED} AND namespace = s.namespace AND session_id = s.session_id)"
)
_NAMES = (
    "WITH RECURSIVE names (name) AS (SELECT min(namespace) FROM sessions UNION ALL"
    " SELECT (SELECT min(namespace) FROM sessions WHERE namespace > name) FROM names WHERE name IS NOT NULL)"
)
"""The namespaces, from one to the next, however many sessions each has."""


def _session(row: tuple[Any, ...]) -> SessionRow:
    totals = dict(zip(_TOTALS, row[len(_OWN) : -1], strict=True))
    totals["unknown_cost"] = bool(totals["unknown_cost"])
    *own, labels = row[: len(_OWN)]
    return SessionRow(*(*own, json.loads(labels), Totals(**totals), row[-1]))


def get_session(connection: sqlite3.Connection, namespace: str, session_id: str) -> SessionRow | None:
    """A session; None where there is none."""
    row = connection.execute(
        f"{_SELECT} FROM sessions AS s WHERE namespace = ? AND session_id = ?", (namespace, session_id)
    ).fetchone()
    return _session(row) if row else None


def list_sessions(
    connection: sqlite3.Connection,
    namespace: str,
    before: tuple[int, str] | None,
    limit: int,
    labels: Mapping[str, str],
    base: str,
) -> list[SessionRow]:
    """As `Store.list_sessions` says."""
    place = before or (2**62, "")
    # The indexes of both hold some rows only.
    of_base = f"{_OF_STEPS} AND s.base_session_id = ?" if base else f"{_OF_NO_STEP} AND ? = ''"
    if not labels:
        rows = connection.execute(
            f"{_SELECT} FROM sessions AS s WHERE namespace = ? AND {of_base}"
            " AND (create_us, session_id) < (?, ?) ORDER BY create_us DESC, session_id DESC LIMIT ?",
            (namespace, base, *place, limit),
        )
        return [_session(row) for row in rows]
    (first, *others) = labels.items()
    has_others = "".join(
        " AND EXISTS (SELECT 1 FROM session_labels AS o WHERE o.namespace = l.namespace"
        " AND o.name = ? AND o.value = ? AND o.create_us = l.create_us AND o.session_id = l.session_id)"
        for _ in others
    )
    # CROSS JOIN: SQLite keeps this order, which is that of the index.
    rows = connection.execute(
        f"{_SELECT} FROM session_labels AS l CROSS JOIN sessions AS s"
        " ON s.namespace = l.namespace AND s.session_id = l.session_id"
        " WHERE l.namespace = ? AND l.name = ? AND l.value = ? AND (l.create_us, l.session_id) < (?, ?)"
        f"{has_others} AND {of_base} ORDER BY l.create_us DESC, l.session_id DESC LIMIT ?",
        (namespace, *first, *place, *(text for other in others for text in other), base, limit),
    )
    return [_session(row) for row in rows]


def list_messages(
    connection: sqlite3.Connection, namespace: str, session_id: str, after: int, limit: int | None
) -> list[MessageRow]:
    """A session's messages after a position."""
    rows = connection.execute(
        "SELECT position, run_id, message_json, time_us FROM messages"
        " WHERE namespace = ? AND session_id = ? AND position > ? ORDER BY position LIMIT ?",
        (namespace, session_id, after, -1 if limit is None else limit),
    )
    return [MessageRow(*row) for row in rows]


def old_sessions(connection: sqlite3.Connection, before_us: int, limit: int) -> list[tuple[str, str]]:
    """As `Store.old_sessions` says."""
    rows = connection.execute(
        f"{_NAMES} SELECT s.namespace, s.session_id FROM names CROSS JOIN sessions AS s"  # noqa: S608 - all of it is ours
        f" WHERE s.namespace = name AND s.update_us < ? AND {_OF_NO_STEP} AND {_IS_IDLE} LIMIT ?",
        (before_us, limit),
    )
    return list(rows)


def surplus_sessions(connection: sqlite3.Connection, keep: int, limit: int) -> list[tuple[str, str]]:
    """As `Store.surplus_sessions` says."""
    found: list[tuple[str, str]] = []
    for (namespace,) in connection.execute(
        f"{_NAMES} SELECT name FROM names WHERE name IS NOT NULL"  # noqa: S608 - all of it is ours
    ).fetchall():
        found += connection.execute(
            "SELECT s.namespace, s.session_id FROM (SELECT * FROM sessions WHERE namespace = ?"  # noqa: S608 - all of it is ours
            " AND base_session_id = '' ORDER BY update_us DESC, session_id DESC LIMIT -1 OFFSET ?) AS s"
            f" WHERE {_IS_IDLE} LIMIT ?",
            (namespace, keep, limit - len(found)),
        )
        if len(found) == limit:
            break
    return found


def take_session(
    connection: sqlite3.Connection, run: RunRow, *, new_session: bool, queue: bool, reject_busy: bool
) -> bool:
    """Make the session of a run that is accepted, or give it its turn; whether the run may begin.

    Raises SessionTakenError, SessionBusyError.
    """
    active = None if queue else run.run_id
    made = connection.execute(
        "INSERT OR IGNORE INTO sessions (namespace, session_id, message_count, create_us, update_us,"
        " active_run_id) VALUES (?, ?, 0, ?, ?, ?)",
        (run.namespace, run.session_id, run.create_us, run.create_us, active),
    ).rowcount
    if made:
        return not queue
    if new_session:
        raise SessionTakenError
    if reject_busy:
        _check_idle(connection, run.namespace, run.session_id)
    if queue or has_queued(connection, run.namespace, run.session_id):
        return False
    taken = connection.execute(
        "UPDATE sessions SET active_run_id = ? WHERE namespace = ? AND session_id = ?"
        " AND active_run_id IS NULL",
        (run.run_id, run.namespace, run.session_id),
    ).rowcount
    return bool(taken)


def _check_idle(connection: sqlite3.Connection, namespace: str, session_id: str) -> None:
    busy = connection.execute(
        f"SELECT run_id FROM runs WHERE {IS_ROOT} AND namespace = ? AND session_id = ? AND state < 5"  # noqa: S608 - all of it is ours
        " ORDER BY create_us LIMIT 1",
        (namespace, session_id),
    ).fetchone()
    if busy:
        raise SessionBusyError(
            f"session {session_id} has a run that has not ended: wait for {busy[0]}, or cancel it",
            session_id=session_id,
            run_id=busy[0],
        )


def add_to_step_session(connection: sqlite3.Connection, outcome: RunOutcome) -> None:
    """Add to a step's session what a run leaves there, unless it is none, or a run of its own is at work."""
    session = (outcome.namespace, outcome.session_id)
    connection.execute(
        "INSERT OR IGNORE INTO sessions (namespace, session_id, message_count, create_us, update_us,"
        " base_session_id) VALUES (?, ?, 0, ?, ?, ?)",
        (*session, outcome.end_us, outcome.end_us, outcome.base_session_id),
    )
    known = connection.execute(
        "SELECT base_session_id, active_run_id FROM sessions WHERE namespace = ? AND session_id = ?", session
    ).fetchone()
    if known == (outcome.base_session_id, None):
        end_turn(connection, outcome)


def end_turn(connection: sqlite3.Connection, outcome: RunOutcome) -> None:
    """Add to a session what its run leaves there, and set it free."""
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
        f"UPDATE sessions SET {_ADD_TOTALS}, message_count = ?, update_us = ?,"  # noqa: S608 - columns are ours
        " active_run_id = CASE active_run_id WHEN ? THEN NULL ELSE active_run_id END"
        " WHERE namespace = ? AND session_id = ?",
        (
            *_totals_values(outcome.totals),
            count + len(outcome.messages),
            outcome.end_us,
            outcome.run_id,
            *session,
        ),
    )


@dataclass(frozen=True, slots=True)
class LabelSession:
    """Replaces a session's labels."""

    namespace: str
    session_id: str
    labels: Mapping[str, str]

    def carry_out(self, connection: sqlite3.Connection) -> SessionRow | None:
        """The session afterwards; None where there is none."""
        session = get_session(connection, self.namespace, self.session_id)
        if session is None:
            return None
        _drop_labels(connection, session)
        connection.executemany(
            "INSERT INTO session_labels (namespace, name, value, create_us, session_id)"
            " VALUES (?, ?, ?, ?, ?)",
            [
                (self.namespace, name, value, session.create_us, self.session_id)
                for name, value in self.labels.items()
            ],
        )
        connection.execute(
            "UPDATE sessions SET labels = ? WHERE namespace = ? AND session_id = ?",
            (json.dumps(dict(self.labels), ensure_ascii=False), self.namespace, self.session_id),
        )
        return get_session(connection, self.namespace, self.session_id)


def _drop_labels(connection: sqlite3.Connection, session: SessionRow) -> None:
    connection.executemany(
        "DELETE FROM session_labels WHERE namespace = ? AND name = ? AND value = ? AND create_us = ?"
        " AND session_id = ?",
        [
            (session.namespace, name, value, session.create_us, session.session_id)
            for name, value in session.labels.items()
        ],
    )


_ITS_SESSIONS = (
    "SELECT session_id FROM sessions WHERE namespace = :namespace AND session_id = :session UNION ALL"
    " SELECT session_id FROM sessions WHERE namespace = :namespace AND base_session_id = :session"
    " AND base_session_id <> ''"
)
_ITS_ROOTS = (
    f"SELECT run_id FROM runs WHERE {IS_ROOT} AND namespace = :namespace AND session_id IN ({_ITS_SESSIONS})"  # noqa: S608 - all of it is ours
)


@dataclass(frozen=True, slots=True)
class DeleteSession:
    """Deletes a session with all that belongs to it."""

    namespace: str
    session_id: str

    def carry_out(self, connection: sqlite3.Connection) -> int | None:
        """How many runs there were, children included. Raises SessionBusyError."""
        session = get_session(connection, self.namespace, self.session_id)
        if session is None:
            return None
        _check_idle(connection, self.namespace, self.session_id)
        which = {"namespace": self.namespace, "session": self.session_id}
        connection.execute(
            "UPDATE sessions SET base_session_id = '' WHERE namespace = :namespace"  # noqa: S608 - all of it is ours
            " AND base_session_id = :session AND base_session_id <> ''"
            f" AND EXISTS (SELECT 1 FROM runs WHERE {IS_ROOT} AND namespace = :namespace"
            " AND session_id = sessions.session_id AND state < 5)",
            which,
        )
        for table in ("journal", "inputs", "blobs"):
            connection.execute(f"DELETE FROM {table} WHERE root_run_id IN ({_ITS_ROOTS})", which)  # noqa: S608 - all of it is ours
        deleted = 0
        for condition in ("parent_run_id <> '' AND root_run_id", f"{IS_ROOT} AND run_id"):
            deleted += connection.execute(
                f"DELETE FROM runs WHERE {condition} IN ({_ITS_ROOTS})",  # noqa: S608 - all of it is ours
                which,
            ).rowcount
        for row in connection.execute(
            f"{_SELECT} FROM sessions AS s WHERE namespace = :namespace AND labels <> '{{}}'"
            f" AND session_id IN ({_ITS_SESSIONS})",
            which,
        ).fetchall():
            _drop_labels(connection, _session(row))
        for table in ("messages", "sessions"):
            connection.execute(
                f"DELETE FROM {table} WHERE namespace = :namespace AND session_id IN ({_ITS_SESSIONS})",  # noqa: S608 - all of it is ours
                which,
            )
        return deleted
