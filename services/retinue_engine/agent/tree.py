"""Where a run tree stands: the conversation of each of its agent runs, folded from one journal."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from retinue.engine.v1 import event_pb2, run_pb2
from retinue_engine.agent.conversation import Asked, Conversation
from retinue_engine.agent.spent import Spent
from retinue_engine.definition import AgentDefinition


@dataclass(slots=True)
class Child:
    """A run inside the tree."""

    run_id: str
    path: str
    started: event_pb2.ChildRunStarted
    agent: AgentDefinition
    conversation: Conversation
    create_us: int
    suspended_before_us: int
    """How long the tree had waited for people when it began."""
    result: run_pb2.RunResult | None = None
    """How it ended; None before."""


class Tree:
    """Folds the events of a tree. `callee` gives the definition of an agent that is called as a tool."""

    def __init__(
        self, root_run_id: str, root: Conversation, callee: Callable[[str], AgentDefinition]
    ) -> None:
        self.root_run_id = root_run_id
        self.root = root
        self.suspended_us = 0
        """How long it waited for people, or was paused, so far."""
        self._suspended_at_us: int | None = None
        self._callee = callee
        self._children: dict[str, Child] = {}
        self._by_call: dict[tuple[str, str], Child] = {}

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
            child.conversation.apply(event)
        elif event.HasField("child_run_started"):
            self._begin(event)

    def apply_all(self, events: Iterable[event_pb2.RunEvent]) -> None:
        """Take in events, in order."""
        for event in events:
            self.apply(event)

    def _begin(self, event: event_pb2.RunEvent) -> None:
        started = event.child_run_started
        agent = self._callee(started.target.name)
        spent = Spent(self._spent(started.parent_run_id))
        conversation = Conversation(agent.system_prompt, (), started.message, spent)
        # What a call is a child of is told by its place, not by its id: models give ids more than once.
        child = Child(
            event.run_id,
            event.path,
            started,
            agent,
            conversation,
            event.time.ToMicroseconds(),
            self.suspended_us,
        )
        self._children[event.run_id] = child
        self._by_call[started.parent_run_id, event.path] = child

    def _spent(self, run_id: str) -> Spent:
        return self.root.spent if run_id == self.root_run_id else self._children[run_id].conversation.spent

    def child(self, run_id: str) -> Child:
        """A run inside the tree. Raises KeyError."""
        return self._children[run_id]

    def child_of_call(self, parent_run_id: str, path: str) -> Child | None:
        """The run that answers a call at a place; None where it has not begun."""
        return self._by_call.get((parent_run_id, path))

    def children(self, path: str = "") -> Iterator[Child]:
        """The runs inside the tree, or inside the run at a path; the inner ones before their callers."""
        below = f"{path}/" if path else ""
        return (each for each in reversed(self._children.values()) if each.path.startswith(below))

    def pending(self) -> list[Asked]:
        """The requests for input that have no answer."""
        conversations = [
            self.root,
            *(each.conversation for each in self._children.values() if each.result is None),
        ]
        return [
            asked
            for conversation in conversations
            for asked in conversation.requests()
            if asked.answer is None and asked.request.call_id in conversation.unanswered
        ]
