"""Where a run tree stands: the state of each of its runs, folded from one journal."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from retinue.engine.v1 import event_pb2, run_pb2
from retinue_engine.agent.conversation import Asked, Conversation, Message
from retinue_engine.agent.spent import Spent
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.custom.progress import CustomProgress
from retinue_engine.definition import AgentDefinition
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.progress import Progress

Definition = AgentDefinition | WorkflowDefinition
"""What a run runs."""


class Standing(Protocol):
    """Where one run of a tree stands: a Conversation, or a workflow's Progress."""

    spent: Spent
    output: str

    @property
    def finish_reason(self) -> str:
        """Why its model stopped."""

    @property
    def repairs(self) -> int:
        """Answers of its model that did not fit the output schema."""

    @property
    def open_turn(self) -> int:
        """Sequence of the turn that began and has no answer yet; 0 where there is none."""

    @property
    def unanswered(self) -> Collection[str]:
        """Ids of the tool calls that have no result yet."""

    @property
    def started(self) -> Collection[str]:
        """Ids of those that were sent on their way."""

    @property
    def restored_whole(self) -> bool:
        """Whether it has all that the run had from which this one goes on."""

    def apply(self, event: event_pb2.RunEvent) -> None:
        """Take in one event of the run."""

    def requests(self) -> list[Asked]:
        """Its last requests for input."""

    def session_messages(self) -> list[str]:
        """What the session is given, as JSON."""


@dataclass(slots=True)
class Child:
    """A run inside the tree."""

    run_id: str
    path: str
    started: event_pb2.ChildRunStarted
    definition: Definition
    state: Standing
    create_us: int
    suspended_before_us: int
    """How long the tree had waited for people when it began."""
    result: run_pb2.RunResult | None = None
    """How it ended; None before."""


class Tree:
    """Folds the events of a tree. `callee` gives the definition of a child by its kind and name."""

    def __init__(self, root_run_id: str, root: Standing, callee: Callable[[int, str], Definition]) -> None:
        self.root_run_id = root_run_id
        self.root = root
        self.suspended_us = 0
        """How long it waited for people, or was paused, so far."""
        self._suspended_at_us: int | None = None
        self.callee = callee
        self._histories: dict[str, Sequence[Message]] = {}
        self._children: dict[str, Child] = {}
        self._by_call: dict[tuple[str, str], Child] = {}
        self._by_step: dict[tuple[str, str], list[Child]] = {}
        self._open: dict[str, dict[str, Child]] = {}
        """By their parents: who has ended holds up nobody who looks for those at work."""

    def __contains__(self, run_id: str) -> bool:
        return run_id == self.root_run_id or run_id in self._children

    def apply(self, event: event_pb2.RunEvent) -> None:
        """Take in one event of the tree."""
        if event.run_id == self.root_run_id:
            which = event.WhichOneof("event")
            if which == "run_suspended":
                self._suspended_at_us = event.time.ToMicroseconds()
            elif which == "run_claimed" and self._suspended_at_us is not None:
                self.suspended_us += max(0, event.time.ToMicroseconds() - self._suspended_at_us)
                self._suspended_at_us = None
            else:
                self.root.apply(event)
            return
        child = self._children.get(event.run_id)
        if child is not None:
            if event.HasField("child_run_finished"):
                child.result = event.child_run_finished.result
                self._open[child.started.parent_run_id].pop(child.run_id, None)
            child.state.apply(event)
        elif event.HasField("child_run_started"):
            self._begin(event)

    def remember(self, run_id: str, history: Sequence[Message]) -> None:
        """Give a child what it begins with, before it does."""
        self._histories[run_id] = history

    def run_ids(self) -> Collection[str]:
        """The ids of the runs inside the tree."""
        return self._children.keys()

    def apply_all(self, events: Iterable[event_pb2.RunEvent]) -> None:
        """Take in events, in order."""
        for event in events:
            self.apply(event)

    def _begin(self, event: event_pb2.RunEvent) -> None:
        started = event.child_run_started
        definition = self.callee(started.target.kind, started.target.name)
        spent = Spent(self._spent(started.parent_run_id))
        state = new_state(definition, started.message, spent, self._histories.pop(event.run_id, ()))
        # What a call is a child of is told by its place, not by its id: models give ids more than once.
        child = Child(
            event.run_id,
            event.path,
            started,
            definition,
            state,
            event.time.ToMicroseconds(),
            self.suspended_us,
        )
        self._children[event.run_id] = child
        self._by_call[started.parent_run_id, event.path] = child
        self._open.setdefault(started.parent_run_id, {})[event.run_id] = child
        step = event.path.removeprefix(self._path_of(started.parent_run_id)).lstrip("/").partition("/")[0]
        self._by_step.setdefault((started.parent_run_id, step), []).append(child)

    def _spent(self, run_id: str) -> Spent:
        return self.root.spent if run_id == self.root_run_id else self._children[run_id].state.spent

    def child(self, run_id: str) -> Child:
        """A run inside the tree. Raises KeyError."""
        return self._children[run_id]

    def _path_of(self, run_id: str) -> str:
        return "" if run_id == self.root_run_id else self._children[run_id].path

    def children_of_step(self, parent_run_id: str, step: str) -> Sequence[Child]:
        """The runs that a run has begun at a step, `step:look`; not those inside them."""
        return self._by_step.get((parent_run_id, step), ())

    def child_of_call(self, parent_run_id: str, path: str) -> Child | None:
        """The run that answers a call at a place; None where it has not begun."""
        return self._by_call.get((parent_run_id, path))

    def at_work(self, run_id: str = "") -> Iterator[Child]:
        """The runs inside a run, the root where it is not named, that have not ended.

        The inner ones come before their callers, the last begun first.
        """
        for child in reversed(self._open.get(run_id or self.root_run_id, {}).values()):
            yield from self.at_work(child.run_id)
            yield child

    def _standings(self) -> list[Standing]:
        return [self.root, *(each.state for each in self._children.values() if each.result is None)]

    def dues_us(self) -> list[int]:
        """When calls of custom workflows that wait go on by themselves."""
        states = (state for state in self._standings() if isinstance(state, CustomProgress) and state.waiting)
        return [due_us for state in states for due_us in state.dues_us()]

    def pending(self) -> list[Asked]:
        """The requests for input that have no answer."""
        return [
            asked
            for state in self._standings()
            for asked in state.requests()
            if asked.answer is None and asked.request.call_id in state.unanswered
        ]


def new_state(
    definition: Definition, message: str, spent: Spent | None = None, history: Sequence[Message] = ()
) -> Standing:
    """Where a run stands that has just begun. Of a session's history only agents have a use."""
    if isinstance(definition, CustomDefinition):
        return CustomProgress(message, spent)
    if isinstance(definition, WorkflowDefinition):
        return Progress(message, spent, definition.state_json)
    return Conversation(definition.system_prompt, history, message, spent)
