"""What the agent runs of one tree share while an engine works on them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from retinue.engine.v1 import event_pb2
from retinue_engine.agent.attachments import FindBlob
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.tree import Definition, Tree
from retinue_engine.definition import AgentDefinition
from retinue_engine.llm.pricing import PriceTable
from retinue_engine.llm.routing import Models
from retinue_engine.memory import MemoryRow
from retinue_engine.stores.rows import Effects, RunRow, Totals
from retinue_engine.story.effects import effects_of
from retinue_engine.story.journal import Journal
from retinue_engine.story.step_sessions import StepSession
from retinue_engine.tools import Toolbox
from retinue_engine.workers.link import OpenWorker
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.progress import Progress
from retinue_kit.allowed import Allowed


@dataclass(frozen=True, slots=True)
class Means:
    """What all runs share: models, tools, prices, limits, what may be used."""

    models: Models
    toolbox: Toolbox
    prices: PriceTable
    max_depth: int
    """How deep agents may call agents."""
    allowed: Allowed
    """What components that came by API may use."""
    open_worker: OpenWorker
    """Starts a process for the code of a custom workflow."""
    worker_connect_s: float
    """How long such a process may take until it connects."""


class Arrivals:
    """Tells those who wait that an answer has come."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()

    def tell(self) -> None:
        """An answer has come."""
        self.count += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def tell_later(self, delay_s: float) -> None:
        """Tell it then, if the run is still at work: something that waits for a time goes on."""
        self._timers.add(asyncio.get_running_loop().call_later(delay_s, self.tell))

    def close(self) -> None:
        """Tell nothing any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def next(self) -> "asyncio.Future[None]":
        """Done once the next answer has come."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future


FindMemories = Callable[[Sequence[str], Mapping[str, str], int], Awaitable[list[MemoryRow]]]
"""Finds texts that were kept, by words and labels, at most so many; without words the newest."""

OpenStepSession = Callable[[str, Definition], Awaitable[StepSession]]
"""Opens the session of a step for a run of something."""


@dataclass(slots=True)
class Work:
    """One tree at work."""

    row: RunRow
    """The root."""
    tree: Tree
    journal: Journal
    means: Means
    paused: Callable[[], bool]
    """Whether the run is to stop at the next safe point."""
    find_blob: FindBlob
    find_memories: FindMemories
    open_step_session: OpenStepSession
    session: Totals = field(default_factory=Totals)
    """What the session's earlier runs have used; of interest only where there is a budget for it."""
    arrivals: Arrivals = field(default_factory=Arrivals)

    def emit(self, run_id: str, path: str, effects: Effects | None = None, /, **what: object) -> None:
        """Make an event of a run of the tree, and take it in. Raises PayloadTooLargeError, ClaimLostError."""
        event = event_pb2.RunEvent(run_id=run_id, path=path, **what)  # type: ignore[arg-type]
        self.journal.emit(event)
        self.tree.apply(event)
        follows = effects_of(self.row, self.tree, event)
        if follows is not None:
            self.journal.attach(follows)
        if effects is not None:
            self.journal.attach(effects)


@dataclass(frozen=True, slots=True)
class RunAtWork:
    """One run of a tree at work."""

    work: Work
    run_id: str
    path: str
    """Of the run in its tree; empty for the root."""
    depth: int

    @property
    def session_id(self) -> str:
        """The session that it reads and writes; empty where it has none."""
        row = self.work.row
        if self.run_id == row.run_id:
            return row.session_id
        return self.work.tree.child(self.run_id).started.session_id

    def place(self, step: str) -> str:
        """The path of a step of this run."""
        return f"{self.path}/{step}" if self.path else step

    def emit(self, step: str, effects: Effects | None = None, /, **what: object) -> None:
        """Make an event of this run at a step, `turn:2`; at the run as a whole where it is empty."""
        self.work.emit(self.run_id, self.place(step) if step else self.path, effects, **what)


@dataclass(frozen=True, slots=True)
class AgentRun(RunAtWork):
    """An agent's run."""

    agent: AgentDefinition
    conversation: Conversation
    above: "AnyRun | None" = None
    """The run that called it."""

    @property
    def definition(self) -> AgentDefinition:
        """What runs."""
        return self.agent

    @property
    def state(self) -> Conversation:
        """Where it stands."""
        return self.conversation


@dataclass(frozen=True, slots=True)
class WorkflowRun(RunAtWork):
    """A workflow's run."""

    definition: WorkflowDefinition
    state: Progress
    above: "AnyRun | None" = None
    """The run that called it."""


AnyRun = AgentRun | WorkflowRun
