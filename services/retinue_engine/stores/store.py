"""What the engine keeps, and the interface of where it keeps it. The store is the only truth."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from retinue.engine.v1.input_pb2 import INPUT_STATE_PENDING
from retinue.engine.v1.run_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_FAILED,
    RUN_STATE_PAUSED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    RUN_STATE_SUCCEEDED,
    RUN_STATE_WAITING,
)
from retinue_engine.memory import MemoryRow

FINAL_STATES = frozenset({RUN_STATE_SUCCEEDED, RUN_STATE_FAILED, RUN_STATE_CANCELLED})
NOT_FINAL_STATES = (RUN_STATE_QUEUED, RUN_STATE_RUNNING, RUN_STATE_PAUSED, RUN_STATE_WAITING)
SUSPENDED_STATES = frozenset({RUN_STATE_PAUSED, RUN_STATE_WAITING})

NOW = 0
"""As `attention_us`: somebody has a word for the run, at once."""


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
    parent_run_id: str = ""
    """Empty for the root of a tree. A child has no lease and no claim, and never a turn in its session."""
    path: str = ""
    """A child's place in its tree."""
    origin_run_id: str = ""
    """The run that it goes on from; empty where it begins anew."""
    origin_sequence: int = 0
    priority: int = 0
    """Among queued runs, higher ones begin first."""
    expire_us: int | None = None
    """When it fails if it is still queued then; None: never."""
    pause_reason: str | None = None
    """What a person said who asked it to pause; None where nobody did, or it is to go on."""
    attention_us: int | None = None
    """NOW: there is a word for it (a cancel, a pause, a resume, an answer) that its engine has not heard.
    Later: when a suspended run is to be taken up, because what it waits for expires. None: neither."""
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
class Totals:
    """What runs have used; of a session, all that have ended."""

    runs: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    nano_usd: int = 0
    unknown_cost: bool = False
    """Whether the price of some call is not known."""
    turns: int = 0
    tool_calls: int = 0
    duration_us: int = 0


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run of the tree ended."""

    namespace: str
    run_id: str
    session_id: str
    """Empty for a child that has none."""
    state: int
    end_us: int
    result: bytes
    messages: Sequence[str] = ()
    """What the run adds to its session, in the OpenAI format as JSON."""
    totals: Totals = Totals()
    """What it adds to its session's totals, its children included."""
    base_session_id: str = ""
    """The session of the tree, for a child that has a session: a step's, which is made where there is none.

    One that is of another base, or has a run of its own at work, is left alone.
    """
    closes_inputs: bool = False
    """Whether requests for input of its tree may be pending, which nobody can answer any more."""


@dataclass(frozen=True, slots=True)
class Suspension:
    """That a run tree waits or is paused, and nothing of it stays in memory."""

    run_id: str
    """The root."""
    state: int
    """WAITING or PAUSED; of the root and of its children that have not ended."""
    attention_us: int | None
    """When it is to be taken up all the same; never moves an `attention_us` that is NOW.

    It becomes NOW where there is a word that whoever took it may not have passed on: a cancel, a resume of a
    run that is paused, a pause of one that waits, an answer to what it waits for.
    """
    input_ids: Sequence[str] = ()
    """The requests for input that it waits for."""


@dataclass(frozen=True, slots=True)
class InputRow:
    """One request for input."""

    input_id: str
    namespace: str
    root_run_id: str
    create_us: int
    expire_us: int
    request: bytes
    """The InputRequest as its event holds it."""
    state: int = INPUT_STATE_PENDING
    answer: bytes | None = None
    """The InputAnswer, once there is one."""
    received: bool = False
    """Whether the journal has the answer."""


@dataclass(frozen=True, slots=True)
class BlobRow:
    """Bytes that a run's events and messages name."""

    root_run_id: str
    blob_id: str
    mime_type: str
    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Effects:
    """What follows from a record. All of it can be done again with the same end."""

    children: Sequence[RunRow] = ()
    """Children that begin, RUNNING."""
    inputs: Sequence[InputRow] = ()
    """Requests for input that are made."""
    received: Sequence[str] = ()
    """Ids of those whose answer the record holds. One that is still pending has expired: it is CLOSED."""
    blobs: Sequence[BlobRow] = ()
    """Stored before the record."""
    memories: Sequence[MemoryRow] = ()
    """Texts that are kept."""
    outcomes: Sequence[RunOutcome] = ()
    """Runs that end; the root last."""
    suspension: Suspension | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """What a person wants of a run; fields that are None say nothing."""

    cancel_reason: str | None = None
    """Cancel. The first cancel counts."""
    pause_reason: str | None = None
    """Pause."""
    resume: bool = False


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One session."""

    namespace: str
    session_id: str
    message_count: int
    create_us: int
    update_us: int
    active_run_id: str | None = None
    """The run that has its turn."""
    labels: Mapping[str, str] = field(default_factory=dict)
    totals: Totals = Totals()
    base_session_id: str = ""
    """Of a step's session: that of its run tree. Empty for any other."""


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
    root_run_id: str = ""
    """The children of this tree; where it is empty, only roots."""


class SessionTakenError(Exception):
    """A generated session id exists already; draw another."""


class QueuedSession(NamedTuple):
    """A session that is free and has queued runs."""

    namespace: str
    session_id: str
    priority: int
    """Of its oldest queued run, which is the next to begin."""
    create_us: int
    """Of the same run."""


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


__all__ = [
    "FINAL_STATES",
    "NOT_FINAL_STATES",
    "NOW",
    "RUN_STATE_PAUSED",
    "RUN_STATE_QUEUED",
    "RUN_STATE_RUNNING",
    "RUN_STATE_WAITING",
    "SUSPENDED_STATES",
    "BlobRow",
    "Control",
    "Effects",
    "InputRow",
    "JournalRecord",
    "MessageRow",
    "QueuedSession",
    "RunFilter",
    "RunOutcome",
    "RunRow",
    "SessionRow",
    "SessionTakenError",
    "Store",
    "Suspension",
    "Totals",
]
