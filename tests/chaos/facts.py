"""What is known after the chaos: what callers were told, what engines tell now, what the world saw."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import ServiceUnavailableError, StoreUnavailableError
from tests.suite import FINAL, Suite, until

Story = list[event_pb2.RunEvent]


@dataclass
class Conversation:
    """A session as an engine tells it."""

    message_count: int
    positions: list[int]
    runs: list[str]
    """The run of each message."""
    messages: list[dict[str, Any]]


@dataclass
class View:
    """What one engine tells."""

    runs: dict[str, run_pb2.Run] = field(default_factory=dict)
    """Each as `GetRun` gives it."""
    listed: list[str] = field(default_factory=list)
    stories: dict[str, Story] = field(default_factory=dict)
    sessions: dict[str, Conversation] = field(default_factory=dict)


@dataclass
class Facts:
    """All that is held against one another."""

    accepted: Mapping[str, str]
    """What each run was asked."""
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


async def _view(suite: Suite, accepted: Mapping[str, str]) -> View:
    view = View(listed=[run.run_id async for run in suite.client.runs.list()])
    for run_id in accepted:
        run = view.runs[run_id] = await suite.client.runs.get(run_id)
        if run.state in FINAL:
            view.stories[run_id] = await suite.watched(run_id)
    async for session in suite.client.sessions.list():
        messages = [each async for each in suite.client.sessions.messages(session.session_id)]
        view.sessions[session.session_id] = Conversation(
            session.message_count,
            [each.position for each in messages],
            [each.run_id for each in messages],
            [json.loads(each.message_json) for each in messages],
        )
    return view


async def _answers(suite: Suite) -> bool:
    try:
        async for _ in suite.client.runs.list():
            break
    except (ServiceUnavailableError, StoreUnavailableError):
        return False
    return True


async def gather_facts(
    suites: Sequence[Suite],
    accepted: Mapping[str, str],
    seen: dict[str, Story],
    resumed: Sequence[float] = (),
) -> Facts:
    """Read everything from every engine; model and tools are those of all."""
    for suite in suites:
        # A channel to an engine that was down may not have tried again yet.
        await until(partial(_answers, suite), "the engine answers")
    views = [await _view(suite, accepted) for suite in suites]
    asked = list(zip(suites[0].model.requests, suites[0].model.times, strict=True))
    return Facts(accepted, seen, views, asked, suites[0].notes(), resumed)
