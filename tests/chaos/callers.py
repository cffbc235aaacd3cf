"""Those who call engines that die and stand still: each call is made until it has a definite answer."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from retinue.client import Client
from retinue.errors import (
    CallCancelledError,
    DeadlineExceededError,
    ServiceUnavailableError,
    StoreUnavailableError,
)

Answer = TypeVar("Answer")

PATIENCE_S = 2.0
"""How long a caller waits for one engine before it goes to another."""

BROKEN = (
    TimeoutError,
    ServiceUnavailableError,
    StoreUnavailableError,
    CallCancelledError,
    DeadlineExceededError,
)
"""What says nothing about whether the call was carried out."""


class Callers:
    """Callers of some engines, each of whom goes to another one where one does not answer."""

    def __init__(self, clients: Sequence[Client], seed: int) -> None:
        self.clients = clients
        self._seed = seed
        self.changes = 0
        """How often a caller went to another engine."""

    def chance(self, *what: object) -> random.Random:
        """What is drawn for something is the same for the same seed, whatever happens in between."""
        return random.Random(f"{self._seed} {what}")

    def other(self, client: Client) -> Client:
        """The engine to try next."""
        self.changes += len(self.clients) > 1
        return self.clients[(self.clients.index(client) + 1) % len(self.clients)]

    async def ask(self, chance: random.Random, call: Callable[[Client], Awaitable[Answer]]) -> Answer:
        """Make a call until an engine answers; raise what it refuses with."""
        client = chance.choice(self.clients)
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await call(client)
            except BROKEN:
                client = self.other(client)
                await asyncio.sleep(0.1)
