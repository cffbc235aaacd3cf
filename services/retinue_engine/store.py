"""What the engine keeps, and the interface of where it keeps it. The store is the only truth."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from retinue.engine.v1.run_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_FAILED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    RUN_STATE_SUCCEEDED,
)

FINAL_STATES = frozenset({RUN_STATE_SUCCEEDED, RUN_STATE_FAILED, RUN_STATE_CANCELLED})


@dataclass(slots=True)
class RunRow:
    """One run. What stands under `derived` follows from its journal and can be made from it again."""

    run_id: str
    namespace: str
    root_run_id: str
    request_id: str
    """Empty where the caller chose none."""
    request_digest: bytes
    """Tells whether a request_id is used for the same request again."""
    target_kind: int
    target_name: str
    target_version: int
    session_id: str
    create_us: int
    """Microseconds since 1970."""
    request: bytes
    """The RunRequest as it was accepted."""
    definition: bytes
    """The ResolveComponentResponse: what runs, with all that it needs, at its versions."""
    writer: str
    """Token of the claim that may append now; made by the engine that claimed."""
    cancel_reason: str | None = None
    """What a canceller said; None where nobody cancelled."""
    lease_us: int = 0
    """When others may try to take the run over; decides nothing but when to try."""
    # derived
    state: int = RUN_STATE_QUEUED
    end_us: int | None = None
    result: bytes | None = None
    """The RunResult, once there is one."""


@dataclass(frozen=True, slots=True)
class JournalRecord:
    """Events of one run tree that were appended together, as the bytes that watchers are sent."""

    root_run_id: str
    first_sequence: int
    last_sequence: int
    writer: str
    """The claim under which it was appended."""
    data: bytes = field(repr=False)
    """A serialized StreamRunResponse."""


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What follows from a run's last record."""

    namespace: str
    run_id: str
    session_id: str
    state: int
    end_us: int
    result: bytes
    messages: Sequence[str]
    """What the run adds to its session, in the OpenAI format as JSON."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session."""

    namespace: str
    session_id: str
    message_count: int
    create_us: int
    update_us: int


@dataclass(frozen=True, slots=True)
class MessageRow:
    """One message of a session."""

    position: int
    run_id: str
    message_json: str
    time_us: int


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list."""

    namespace: str
    session_id: str = ""
    states: Collection[int] = ()
    target_name: str = ""


class SessionTakenError(Exception):
    """A generated session id exists already; draw another."""


class Store(Protocol):
    """Where runs, journals and sessions are kept. Raises StoreUnavailableError where it cannot be reached.

    Of the runs of one session at most one is RUNNING; the others are QUEUED in the order in which they came.
    """

    exclusive: bool
    """Whether no other engine can be at work on this store."""

    async def create_run(self, run: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        """Store a run with its first record; return it as stored, RUNNING or QUEUED behind its session.

        Where (namespace, request_id) is known, return that run instead and store nothing. Raises
        SessionTakenError where `new_session` is asked for and the session exists.
        """

    def append(self, record: JournalRecord, outcome: RunOutcome | None = None) -> "asyncio.Future[None]":
        """Append a record, and with a run's last one its outcome; done once it is durable.

        Fails with ClaimLostError where another claim has appended at the same sequence. Appending the same
        record again is no error.
        """

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:
        """Append a record that takes the run over. Fails with ClaimLostError where another was quicker."""

    async def read_journal(self, root_run_id: str, after: int, max_bytes: int) -> list[JournalRecord]:
        """The records that hold events after a sequence, in order: one at least, then up to `max_bytes`."""

    async def last_sequence(self, root_run_id: str) -> int:
        """The last number in a journal; 0 where there is none."""

    async def get_run(self, namespace: str, run_id: str) -> RunRow | None:
        """A run; None where there is none."""

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        """The run that was accepted under a request_id; None where there is none."""

    async def list_runs(self, which: RunFilter, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
        """Runs, the newest first, that come after a place `(create_us, run_id)` in that order."""

    async def request_cancel(self, namespace: str, run_id: str, reason: str) -> RunRow | None:
        """Store that a run is to end, unless it has; return it. None where there is none."""

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """Unfinished RUNNING runs whose lease is over, the oldest first."""

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:
        """Move the leases of runs that this engine works on; return the ids of those it has lost.

        A run whose stored `writer` is another has been taken over: it is left alone.
        """

    async def cancelled_runs(self) -> list[tuple[str, str]]:
        """(run_id, reason) of all RUNNING runs that somebody cancelled."""

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:
        """Let the oldest queued run of a session that is free begin, and return it; None where none can.

        Others leave it alone until its lease is over, which `lease_us` may only move on.
        """

    async def waiting_sessions(self, limit: int) -> list[tuple[str, str]]:
        """(namespace, session_id) of sessions that are free and have queued runs."""

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        """A session; None where there is none."""

    async def list_sessions(
        self, namespace: str, before: tuple[int, str] | None, limit: int
    ) -> list[SessionRow]:
        """Sessions, the newest first, that come after a place `(create_us, session_id)` in that order."""

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        """A session's messages after a position, in order; all of them where there is no limit."""


__all__ = [
    "FINAL_STATES",
    "RUN_STATE_QUEUED",
    "RUN_STATE_RUNNING",
    "JournalRecord",
    "MessageRow",
    "RunFilter",
    "RunOutcome",
    "RunRow",
    "SessionRow",
    "SessionTakenError",
    "Store",
]
