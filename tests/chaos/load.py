"""Runs that are started and watched while processes die and stand still."""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from retinue.client import Client
from retinue.errors import (
    CallCancelledError,
    DeadlineExceededError,
    ServiceUnavailableError,
    StoreUnavailableError,
)
from tests.chaos.facts import Story

PATIENCE_S = 2.0
"""How long a caller waits for one engine before it goes to another."""

BROKEN = (
    TimeoutError,
    ServiceUnavailableError,
    StoreUnavailableError,
    CallCancelledError,
    DeadlineExceededError,
)


def _call(tool: str) -> dict[str, Any]:
    return {"name": f"tools__{tool}", "arguments": {"ms": 300}}


SCRIPT: dict[str, Any] = {
    "rules": [
        {
            "when": {"last_role": "tool"},
            "text": "the tools said {last_tool}",
            "chunk_size": 2,
            "chunk_delay_ms": 15,
        },
        {
            "when": {"user_contains": "count"},
            "tool_calls": [_call("count"), _call("count_again")],
            "delay_ms": 10,
        },
        {
            "when": {"user_contains": "repeat"},
            "tool_calls": [_call("count_again"), _call("look")],
            "delay_ms": 10,
        },
    ],
    "default": {"chunks": [f"word{n} " for n in range(60)], "chunk_delay_ms": 10},
}


@dataclass
class Load:
    """Callers, each of whom goes to another engine where one does not answer."""

    clients: Sequence[Client]
    chance: random.Random
    over_s: float = 6.0
    """The time over which runs are started."""
    accepted: dict[str, str] = field(default_factory=dict)
    """What each run was asked."""
    seen: dict[str, Story] = field(default_factory=dict)
    cuts: int = 0
    changes: int = 0
    """How often a caller went to another engine."""

    def other(self, client: Client) -> Client:
        """The engine to try next."""
        self.changes += len(self.clients) > 1
        return self.clients[(self.clients.index(client) + 1) % len(self.clients)]

    async def start(self, number: int) -> str:
        """Start a run, with the same request wherever it takes."""
        kind = self.chance.choice(("count", "repeat", "talk"))
        message = f"{kind} #{number}#"
        session = f"s{self.chance.randrange(10)}" if self.chance.random() < 0.5 else ""
        client = self.chance.choice(self.clients)
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    run = await client.runs.start("b", message, session_id=session, request_id=f"r{number}")
            except BROKEN:
                client = self.other(client)
                await asyncio.sleep(0.1)
                continue
            assert self.accepted.setdefault(run.run_id, message) == message
            return run.run_id

    async def follow(self, run_id: str) -> None:
        """Watch to the end, cutting the stream at random events, through whichever engine answers."""
        events = self.seen.setdefault(run_id, [])
        client = self.chance.choice(self.clients)
        while not (events and events[-1].WhichOneof("event") == "run_finished"):
            cut_after = self.chance.choice((1, 2, 5, 1000))
            stream = client.runs.watch(run_id, after_sequence=len(events))
            try:
                while cut_after:
                    # Silence may be a run that waits, or an engine that stands still.
                    events.append(await asyncio.wait_for(anext(stream), PATIENCE_S))
                    cut_after -= 1
                self.cuts += 1
            except StopAsyncIteration:
                pass
            except BROKEN:
                client = self.other(client)
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    async def one(self, number: int) -> None:
        """One caller."""
        await asyncio.sleep(self.chance.random() * self.over_s)
        await self.follow(await self.start(number))
