"""What is known after the chaos: what callers were told, what engines tell now, what the world saw."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retinue.engine.v1 import event_pb2, input_pb2, run_pb2, session_pb2
from retinue.errors import ServiceUnavailableError, StoreUnavailableError
from tests.suite import FINAL, Suite, until

Story = list[event_pb2.RunEvent]

TOGETHER = 16
"""How many calls are made side by side."""


@dataclass(frozen=True)
class Accepted:
    """A run whose caller was told that it is accepted."""

    agent: str
    message: str
    tag: str
    """Its name in the prompts of its agents."""
    origin: str = ""
    """The run that it is a retry of."""
    interrupts: bool = False
    """Whether it cancels the runs of its session."""
    sent: float = 0.0
    answered: float = 0.0
    """When it was asked for, and when the caller had its answer."""


@dataclass
class Watched:
    """What a watcher saw who asked for some events of a tree."""

    root_run_id: str
    types: Sequence[str]
    path: str
    child_run_id: str
    """The run that was watched; empty: the root."""
    seen: Story
    ended: bool = False
    """Whether the stream ended by itself."""


@dataclass
class Conversation:
    """A session as an engine tells it."""

    message_count: int
    positions: list[int]
    runs: list[str]
    """The run of each message."""
    messages: list[dict[str, Any]]
    totals: session_pb2.SessionTotals = field(default_factory=session_pb2.SessionTotals)
    active_run_id: str = ""


@dataclass
class View:
    """What one engine tells."""

    runs: dict[str, run_pb2.Run] = field(default_factory=dict)
    """Each as `GetRun` gives it."""
    listed: list[str] = field(default_factory=list)
    stories: dict[str, Story] = field(default_factory=dict)
    sessions: dict[str, Conversation] = field(default_factory=dict)
    children: dict[str, run_pb2.Run] = field(default_factory=dict)
    inputs: dict[str, input_pb2.InputRequest] = field(default_factory=dict)
    tails: dict[tuple[str, int], Story] = field(default_factory=dict)
    """What comes after each event of the longest story."""


@dataclass
class Facts:
    """All that is held against one another."""

    accepted: Mapping[str, Accepted]
    seen: dict[str, Story]
    """What a watcher saw of each."""
    views: Sequence[View]
    """One for each engine."""
    asked: Sequence[tuple[dict[str, Any], float]] = ()
    """What the model was asked, and when."""
    effects: Sequence[dict[str, Any]] = ()
    """What the tools did."""
    resumed: Sequence[float] = ()
    """When engines that had been stopped went on: one may not know for a moment that it has lost its runs."""
    watched: Sequence[Watched] = ()
    """What others saw, who asked for some events."""
    answered: Mapping[str, Sequence[input_pb2.InputAnswer]] = field(default_factory=dict)
    """The answers of requests for input that were accepted."""
    cancelled: Mapping[str, str] = field(default_factory=dict)
    """Why runs were cancelled."""


async def _view(suite: Suite, accepted: Mapping[str, Accepted]) -> View:
    client = suite.client
    view = View(listed=[run.run_id async for run in client.runs.list()])
    places = asyncio.Semaphore(TOGETHER)

    async def read_run(run_id: str) -> None:
        async with places:
            view.runs[run_id] = await client.runs.get(run_id)
            async for child in client.runs.list(root_run_id=run_id):
                view.children[child.run_id] = child
            if view.runs[run_id].state in FINAL:
                view.stories[run_id] = await suite.watched(run_id)

    async def read_tail(run_id: str, after: int) -> None:
        async with places:
            view.tails[run_id, after] = await suite.watched(run_id, after)

    await asyncio.gather(*map(read_run, accepted))
    longest = max(view.stories.values(), key=len, default=[])
    await asyncio.gather(*(read_tail(longest[0].run_id, after) for after in range(len(longest))))
    async for request in client.inputs.list(include_closed=True):
        view.inputs[request.input_id] = request
    async for session in client.sessions.list():
        messages = [each async for each in client.sessions.messages(session.session_id)]
        view.sessions[session.session_id] = Conversation(
            session.message_count,
            [each.position for each in messages],
            [each.run_id for each in messages],
            [json.loads(each.message_json) for each in messages],
            session.totals,
            session.active_run_id,
        )
    return view


async def _answers(suite: Suite) -> bool:
    try:
        async for _ in suite.client.runs.list():
            break
    except (ServiceUnavailableError, StoreUnavailableError):
        return False
    return True


async def read_views(suites: Sequence[Suite], accepted: Mapping[str, Accepted]) -> list[View]:
    """Read everything from every engine."""
    for suite in suites:
        # A channel to an engine that was down may not have tried again yet.
        await until(partial(_answers, suite), "the engine answers")
    return [await _view(suite, accepted) for suite in suites]
