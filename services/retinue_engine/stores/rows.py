"""What the engine keeps: the rows of its store, and what is done with them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    "Suspension",
    "Totals",
]
