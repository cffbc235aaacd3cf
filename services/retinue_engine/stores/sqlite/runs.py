"""Runs in the SQLite store: found by what they wait for, commanded, and let begin."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

from retinue_engine.stores.rows import NOW, RUN_STATE_RUNNING, Control, QueuedSession, RunFilter, RunRow

RUN_COLUMNS = ", ".join(column.name for column in fields(RunRow))

# An index that holds some rows only is used where a query repeats its condition word by word.
IS_ROOT = "parent_run_id = ''"
IS_QUEUED = f"state = 1 AND {IS_ROOT}"
_UNFINISHED = f"state < 5 AND {IS_ROOT}"

_BEFORE = "(create_us, run_id) < (?, ?) ORDER BY create_us DESC, run_id DESC"
_SUCCEEDED = 5
_SAFE_VALUES = 500
"""Values of one statement: SQLite takes 999 at least."""


def read_runs(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> list[RunRow]:
    """The runs that fit a condition, which may go on with an order and a limit."""
    rows = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where}", values)  # noqa: S608 - conditions are ours
    return [RunRow(*row) for row in rows]


def read_run(connection: sqlite3.Connection, where: str, values: Sequence[object]) -> RunRow | None:
    """The first run that fits a condition."""
    row = connection.execute(f"SELECT {RUN_COLUMNS} FROM runs WHERE {where} LIMIT 1", values).fetchone()  # noqa: S608 - conditions are ours
    return RunRow(*row) if row else None


def list_runs(
    connection: sqlite3.Connection, which: RunFilter, before: tuple[int, str] | None, limit: int
) -> list[RunRow]:
    """As `Store.list_runs` says."""
    place, states = before or (2**62, ""), set(which.states)
    if states and which == RunFilter(which.namespace, states=which.states) and _SUCCEEDED not in states:
        # There are few such runs among many that succeeded: each state is read from an index of its own.
        found = [run for state in states for run in _list_of_state(connection, which, state, place, limit)]
        return sorted(found, key=attrgetter("create_us", "run_id"), reverse=True)[:limit]
    conditions, values = ["namespace = ?"], [which.namespace]
    if which.root_run_id:
        conditions.append("parent_run_id <> '' AND root_run_id = ?")
        values.append(which.root_run_id)
    else:
        conditions.append(IS_ROOT)
    if which.session_id:
        conditions.append("session_id = ?")
        values.append(which.session_id)
    if which.target_name:
        conditions.append("target_name = ?")
        values.append(which.target_name)
    if states:
        conditions.append(f"state IN ({', '.join(str(int(state)) for state in states)})")
    return read_runs(
        connection, f"{' AND '.join(conditions)} AND {_BEFORE} LIMIT ?", (*values, *place, limit)
    )


def _list_of_state(
    connection: sqlite3.Connection, which: RunFilter, state: int, place: tuple[int, str], limit: int
) -> list[RunRow]:
    some = "state < 5" if state < _SUCCEEDED else "state > 5"
    return read_runs(
        connection,
        f"{some} AND {IS_ROOT} AND namespace = ? AND state = ? AND {_BEFORE} LIMIT ?",
        (which.namespace, state, *place, limit),
    )


def abandoned_runs(connection: sqlite3.Connection, limit: int) -> list[RunRow]:
    """RUNNING roots, the oldest first: alone on its file, an engine keeps no leases."""
    return read_runs(connection, f"{_UNFINISHED} AND state = 2 ORDER BY create_us LIMIT ?", (limit,))


def due_runs(connection: sqlite3.Connection, now_us: int, limit: int) -> list[RunRow]:
    """Suspended roots whose `attention_us` has come."""
    return read_runs(
        connection,
        f"state IN (3, 4) AND attention_us IS NOT NULL AND {IS_ROOT} AND attention_us <= ?"
        " ORDER BY attention_us LIMIT ?",
        (now_us, limit),
    )


def expired_runs(connection: sqlite3.Connection, now_us: int, limit: int) -> list[RunRow]:
    """QUEUED runs whose `expire_us` has come."""
    return read_runs(
        connection,
        f"{IS_QUEUED} AND expire_us IS NOT NULL AND expire_us <= ? ORDER BY expire_us LIMIT ?",
        (now_us, limit),
    )


def commanded_runs(connection: sqlite3.Connection) -> list[str]:
    """Ids of RUNNING roots for which there is a word."""
    rows = connection.execute(f"SELECT run_id FROM runs WHERE state = 2 AND attention_us = 0 AND {IS_ROOT}")  # noqa: S608 - all of it is ours
    return [run_id for (run_id,) in rows]


def queued_namespaces(connection: sqlite3.Connection) -> list[str]:
    """Namespaces with QUEUED runs; from one to the next, however many runs each has."""
    rows = connection.execute(
        "WITH RECURSIVE names (name) AS ("  # noqa: S608 - all of it is ours
        f"SELECT min(namespace) FROM runs WHERE {IS_QUEUED} UNION ALL"
        f" SELECT (SELECT min(namespace) FROM runs WHERE {IS_QUEUED} AND namespace > name)"
        " FROM names WHERE name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL"
    )
    return [name for (name,) in rows]


def count_queued(connection: sqlite3.Connection, namespace: str | None) -> int:
    """How many runs are QUEUED."""
    where, values = (IS_QUEUED, ()) if namespace is None else (f"{IS_QUEUED} AND namespace = ?", (namespace,))
    (count,) = connection.execute(f"SELECT count(*) FROM runs WHERE {where}", values).fetchone()  # noqa: S608 - all of it is ours
    return int(count)


def free_sessions(connection: sqlite3.Connection, namespace: str, limit: int) -> list[QueuedSession]:
    """As `Store.free_sessions` says.

    Reads queued runs in the order in which they may begin, and leaves out those that are not the oldest of
    their session: so it ends as soon as it has enough.
    """
    rows = connection.execute(
        "SELECT q.namespace, q.session_id, q.priority, q.create_us FROM runs AS q"  # noqa: S608 - all of it is ours
        f" WHERE {IS_QUEUED} AND namespace = ?"
        " AND EXISTS (SELECT 1 FROM sessions AS s WHERE s.namespace = q.namespace"
        " AND s.session_id = q.session_id AND s.active_run_id IS NULL)"
        f" AND NOT EXISTS (SELECT 1 FROM runs AS o WHERE {IS_QUEUED}"
        " AND o.namespace = q.namespace AND o.session_id = q.session_id"
        " AND (o.create_us, o.run_id) < (q.create_us, q.run_id))"
        " ORDER BY q.priority DESC, q.create_us, q.run_id LIMIT ?",
        (namespace, limit),
    )
    return [QueuedSession(*row) for row in rows]


def has_queued(connection: sqlite3.Connection, namespace: str, session_id: str) -> bool:
    """Whether a session has queued runs."""
    found = connection.execute(
        f"SELECT 1 FROM runs WHERE {IS_QUEUED} AND namespace = ? AND session_id = ? LIMIT 1",  # noqa: S608 - all of it is ours
        (namespace, session_id),
    ).fetchone()
    return found is not None


@dataclass(frozen=True, slots=True)
class BeginNext:
    """Lets the oldest queued run of a free session begin."""

    namespace: str
    session_id: str

    def carry_out(self, connection: sqlite3.Connection) -> RunRow | None:
        """The run that begins; None where none can."""
        session = (self.namespace, self.session_id)
        run = read_run(
            connection,
            f"{IS_QUEUED} AND namespace = ? AND session_id = ?"  # noqa: S608 - all of it is ours
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


@dataclass(frozen=True, slots=True)
class ControlRun:
    """Stores what a person wants of a run."""

    namespace: str
    run_id: str
    control: Control

    def carry_out(self, connection: sqlite3.Connection) -> RunRow | None:
        """The run afterwards; None where there is none."""
        control = self.control
        connection.execute(
            "UPDATE runs SET cancel_reason = coalesce(cancel_reason, ?),"
            " pause_reason = CASE WHEN ? THEN NULL ELSE coalesce(?, pause_reason) END, attention_us = ?"
            " WHERE namespace = ? AND run_id = ? AND state < 5",
            (
                control.cancel_reason,
                control.resume,
                control.pause_reason,
                NOW,
                self.namespace,
                self.run_id,
            ),
        )
        return read_run(connection, "namespace = ? AND run_id = ?", (self.namespace, self.run_id))


@dataclass(frozen=True, slots=True)
class TakeCommands:
    """Takes the words for runs at work."""

    run_ids: Sequence[str]

    def carry_out(self, connection: sqlite3.Connection) -> list[RunRow]:
        """The runs, as they are with those words."""
        runs: list[RunRow] = []
        for start in range(0, len(self.run_ids), _SAFE_VALUES):
            some = self.run_ids[start : start + _SAFE_VALUES]
            marks = ", ".join("?" for _ in some)
            connection.execute(
                "UPDATE runs SET attention_us = NULL"  # noqa: S608 - marks alone
                f" WHERE run_id IN ({marks}) AND state = 2 AND attention_us = 0 AND {IS_ROOT}",
                some,
            )
            runs += read_runs(connection, f"run_id IN ({marks}) AND state = 2 AND {IS_ROOT}", some)
        return runs
