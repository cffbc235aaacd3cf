"""The interface of where the engine keeps what it keeps. The store is the only truth."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from retinue_engine.memory import MemoryRow
from retinue_engine.stores.rows import (
    BlobRow,
    Control,
    Effects,
    InputRow,
    JournalRecord,
    MessageRow,
    QueuedSession,
    RunFilter,
    RunRow,
    SessionRow,
)


class Store(Protocol):
    """Where runs, journals and sessions are kept. Raises StoreUnavailableError where it cannot be reached.

    Of the runs of one session at most one is RUNNING; the others are QUEUED in the order in which they came.
    """

    exclusive: bool
    """Whether no other engine can be at work on this store."""

    async def create_run(
        self,
        run: RunRow,
        first: JournalRecord,
        *,
        new_session: bool,
        blobs: Sequence[BlobRow] = (),
        queue: bool = False,
        reject_busy: bool = False,
    ) -> RunRow:
        """Store a run with its first record and its blobs; return it as stored.

        RUNNING where its session is free, else QUEUED behind it; with `queue` QUEUED in any case. Where
        (namespace, request_id) is known, return that run instead and store nothing. Raises SessionTakenError
        where `new_session` is asked for and the session exists, and with `reject_busy` SessionBusyError where
        the session has a run that has not ended; nothing is stored then.
        """

    def append(self, record: JournalRecord, effects: Effects | None = None) -> "asyncio.Future[None]":
        """Append a record, and what follows from it; done once both are durable.

        Fails with ClaimLostError where another claim has appended at the same sequence. Appending the same
        record again is no error. Effects of a claim that was lost meanwhile change no run.
        """

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:
        """Append a record that takes a run over. Fails with ClaimLostError where another was quicker.

        A suspended tree is RUNNING again then, and its attention_us None; a run that was RUNNING keeps a word
        that nobody has heard.
        """

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

    async def control_run(self, namespace: str, run_id: str, control: Control) -> RunRow | None:
        """Store what a person wants of a run, unless it has ended; return it. None where there is none.

        Its `attention_us` is NOW then.
        """

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """RUNNING roots whose lease is over, the oldest first."""

    async def due_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """Suspended roots whose `attention_us` has come, the most urgent first."""

    async def expired_runs(self, now_us: int, limit: int) -> list[RunRow]:
        """QUEUED runs whose `expire_us` has come."""

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:
        """Move the leases of runs that this engine works on; return the ids of those it has lost.

        A run whose stored `writer` is another has been taken over: it is left alone.
        """

    async def await_command(self, longest_s: float) -> None:
        """Wait until `commanded_runs` may have something new, `longest_s` at most.

        A store that is not told of it by its server waits a tenth of a second.
        """

    async def commanded_runs(self) -> list[str]:
        """Ids of all RUNNING roots whose `attention_us` is NOW."""

    async def take_commands(self, run_ids: Sequence[str]) -> list[RunRow]:
        """Set the `attention_us` of RUNNING roots from NOW to None; then read and return them.

        Those that are not RUNNING roots are left out. One without a word is returned all the same: its word
        may have been taken by a call whose answer did not arrive.
        In this order: a word that comes in between is either in what is returned or makes it NOW again.
        """

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:
        """Let the oldest queued run of a session that is free begin, and return it; None where none can.

        Others leave it alone until its lease is over, which `lease_us` may only move on.
        """

    async def queued_namespaces(self) -> list[str]:
        """Namespaces with QUEUED runs."""

    async def count_queued(self, namespace: str | None = None) -> int:
        """How many runs are QUEUED, in one namespace or in all."""

    async def free_sessions(self, namespace: str, limit: int) -> list[QueuedSession]:
        """Sessions that are free and have queued runs: higher priority first, then the older run first."""

    async def get_input(self, namespace: str, input_id: str) -> InputRow | None:
        """A request for input; None where there is none."""

    async def list_inputs(
        self,
        namespace: str,
        root_run_id: str,
        before: tuple[int, str] | None,
        limit: int,
        *,
        closed: bool = False,
    ) -> list[InputRow]:
        """Requests for input, the newest first, after a place `(create_us, input_id)` in that order.

        Of one tree, or of all where `root_run_id` is empty; PENDING ones, with `closed` the others as well.
        """

    async def answer_input(self, namespace: str, input_id: str, answer: bytes) -> InputRow | None:
        """Store the answer of a PENDING request, which is ANSWERED then; return it as stored.

        Where it is answered with this answer, its root's `attention_us` is NOW before this returns. The
        caller compares what it finds with what it gave. None where there is none.
        """

    async def answered_inputs(self, root_run_id: str) -> list[InputRow]:
        """ANSWERED requests of a tree whose answer its journal does not have."""

    async def get_blob(self, root_run_id: str, blob_id: str) -> BlobRow | None:
        """A blob; None where there is none."""

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        """A session; None where there is none."""

    async def list_sessions(
        self,
        namespace: str,
        before: tuple[int, str] | None,
        limit: int,
        labels: Mapping[str, str] | None = None,
        base: str = "",
    ) -> list[SessionRow]:
        """Sessions, the newest first, that come after a place `(create_us, session_id)` in that order.

        Those of the steps of `base`; where it is empty, those of no step. With `labels`, only those that have
        each of them with its value.
        """

    async def label_session(
        self, namespace: str, session_id: str, labels: Mapping[str, str]
    ) -> SessionRow | None:
        """Replace a session's labels; return it. None where there is none."""

    async def delete_session(self, namespace: str, session_id: str) -> int | None:
        """Delete a session with its runs, their children, journals, inputs, blobs and messages.

        The sessions of its steps go with it; one in which a run of its own is at work stays, and is of no
        step from then on. A step's session alone: SessionOfStepError.

        Return how many runs there were, children included; None where there is no such session. Raises
        SessionBusyError where one of them has not ended: nothing is deleted then. Killed in the middle, it
        can be done again.
        """

    async def old_sessions(self, before_us: int, limit: int) -> list[tuple[str, str]]:
        """(namespace, session_id) of free sessions without queued runs, last used before a time.

        None of a step: those go with the session to which they belong.
        """

    async def surplus_sessions(self, keep: int, limit: int) -> list[tuple[str, str]]:
        """The same of those beyond the `keep` sessions, free or not, that their namespace used last."""

    async def write_memory(self, row: MemoryRow) -> MemoryRow:
        """Keep a text; return it as stored, which is the first one where its id is known."""

    async def get_memory(self, namespace: str, memory_id: str, now_us: int) -> MemoryRow | None:
        """A text that has not expired; None where there is none."""

    async def list_memories(
        self,
        namespace: str,
        labels: Mapping[str, str],
        before: tuple[int, str] | None,
        limit: int,
        now_us: int,
    ) -> list[MemoryRow]:
        """Texts, the newest first, that come after a place `(create_us, memory_id)` in that order.

        Those that have all of the labels and have not expired.
        """

    async def search_memories(
        self, namespace: str, words: Sequence[str], labels: Mapping[str, str], limit: int, now_us: int
    ) -> list[MemoryRow]:
        """Texts with some of the words: those with more of them first, then the newer ones.

        Those that have all of the labels and have not expired. There must be a word.
        """

    async def delete_memory(self, namespace: str, memory_id: str) -> bool:
        """Forget a text; whether there was one."""

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        """A session's messages after a position, in order; all of them where there is no limit."""
