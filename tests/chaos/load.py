"""Runs that are started, watched, steered and retried while processes die and stand still."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from random import Random

from retinue.client import Client
from retinue.engine.v1 import run_pb2, service_pb2
from tests.chaos.callers import BROKEN, PATIENCE_S, Callers
from tests.chaos.facts import Accepted, Story, Watched
from tests.chaos.people import SHORT_S, People
from tests.chaos.world import AGENT_OF, tag_of
from tests.suite import FINAL

CUTS = (1, 2, 5, 1000)
"""After how many events a stream is cut."""

FILTERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("message_completed", "tool_call_completed", "run_finished"), ""),
    (("child_run_started", "child_run_finished"), ""),
    (("input_requested", "input_received", "run_suspended", "run_claimed"), ""),
    ((), "turn:1"),
    ((), "turn:1/call:2"),
    (("text_delta",), "turn:1"),
)
"""Types of events and paths that some watchers ask for."""

RETRIES = 2


@dataclass
class Load:
    """Callers and what they were told."""

    callers: Callers
    over_s: float
    """The time over which runs are started."""
    accepted: dict[str, Accepted] = field(default_factory=dict)
    seen: dict[str, Story] = field(default_factory=dict)
    """What a watcher saw of each run."""
    watched: list[Watched] = field(default_factory=list)
    """What others saw, who asked for less."""
    cuts: int = 0

    def __post_init__(self) -> None:
        """Get people who know the runs."""
        self.people = People(self.callers, self.accepted)

    async def one(self, number: int) -> None:
        """One caller: a run and its retries."""
        chance = self.callers.chance("caller", number)
        await asyncio.sleep(chance.random() * self.over_s)
        run_id = await self._start(number, chance)
        for retry in range(1, RETRIES + 1):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.people.steer(run_id))
                if chance.random() < 0.4:
                    types, path = chance.choice(FILTERS)
                    watched = Watched(run_id, types, path, "", [])
                    group.create_task(self._follow_some(run_id, watched, chance))
                await self._follow(run_id, group, chance)
            run = await self.callers.ask(chance, lambda client, run_id=run_id: client.runs.get(run_id))
            assert run.state in FINAL, f"the end of {run_id} was shown before it was stored"
            if run.state == run_pb2.RUN_STATE_SUCCEEDED or retry == RETRIES:
                return
            run_id = await self._retry(run_id, tag_of(number, retry), chance)

    async def _start(self, number: int, chance: Random) -> str:
        """Start a run, with the same request wherever it takes."""
        kind = chance.choice(list(AGENT_OF))
        message = f"{kind} #{number}#"
        session = f"s{chance.randrange(8)}" if chance.random() < 0.4 else ""
        tag = tag_of(number, 0)
        options = run_pb2.RunOptions(variables={"tag": tag})
        if chance.random() < 0.3:
            options.input_timeout.FromTimedelta(timedelta(seconds=SHORT_S))
        interrupts = bool(session) and chance.random() < 0.1
        busy = service_pb2.SESSION_BUSY_POLICY_INTERRUPT if interrupts else 0
        accepted = Accepted(AGENT_OF[kind], message, tag, interrupts=interrupts, sent=time.time())
        run = await self.callers.ask(
            chance,
            lambda client: client.runs.start(
                AGENT_OF[kind],
                message,
                session_id=session,
                request_id=tag,
                options=options,
                session_busy=service_pb2.SessionBusyPolicy.ValueType(busy),
            ),
        )
        self._note(run.run_id, accepted)
        return run.run_id

    async def _retry(self, run_id: str, tag: str, chance: Random) -> str:
        options = run_pb2.RunOptions(variables={"tag": tag})
        accepted = replace(self.accepted[run_id], tag=tag, origin=run_id, interrupts=False, sent=time.time())
        run = await self.callers.ask(
            chance, lambda client: client.runs.retry(run_id, request_id=tag, options=options)
        )
        self._note(run.run_id, accepted)
        return run.run_id

    def _note(self, run_id: str, accepted: Accepted) -> None:
        assert run_id not in self.accepted, "two requests were given one run"
        self.accepted[run_id] = replace(accepted, answered=time.time())

    async def _follow(self, run_id: str, group: asyncio.TaskGroup, chance: Random) -> None:
        """Watch to the end, cutting the stream at random events, through whichever engine answers."""
        events = self.seen.setdefault(run_id, [])
        client = chance.choice(self.callers.clients)
        while not (events and events[-1].HasField("run_finished")):
            known = len(events)
            client = await self._watch(client, run_id, Watched(run_id, (), "", "", events), chance)
            for event in events[known:]:
                if event.HasField("child_run_started") and chance.random() < 0.5:
                    watched = Watched(run_id, (), event.path, event.run_id, [])
                    group.create_task(self._follow_some(event.run_id, watched, chance))
                elif event.HasField("input_requested"):
                    # Who is told by the story can answer at once, through any engine.
                    group.create_task(self.people.attend(event.input_requested.request))

    async def _follow_some(self, run_id: str, watched: Watched, chance: Random) -> None:
        """Watch some events until the stream ends by itself."""
        self.watched.append(watched)
        client = chance.choice(self.callers.clients)
        while not watched.ended:
            client = await self._watch(client, run_id, watched, chance)

    async def _watch(self, client: Client, run_id: str, watched: Watched, chance: Random) -> Client:
        """Watch until the stream is cut, breaks or ends; return whom to ask next."""
        seen, left = watched.seen, chance.choice(CUTS)
        stream = client.runs.watch(
            run_id,
            after_sequence=seen[-1].sequence if seen else 0,
            event_types=watched.types,
            path="" if watched.child_run_id else watched.path,
        )
        try:
            while left:
                # Silence may be a run that waits, or an engine that stands still.
                seen.append(await asyncio.wait_for(anext(stream), PATIENCE_S))
                left -= 1
            self.cuts += 1
        except StopAsyncIteration:
            watched.ended = True
        except BROKEN:
            client = self.callers.other(client)
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
        return client


def load_on(clients: Sequence[Client], seed: int, over_s: float) -> Load:
    """Callers of engines, who do what a seed says, over some seconds."""
    return Load(Callers(clients, seed), over_s)
