"""What an engine does by the clock where engines share a store: keeps its runs, hears of commands, looks."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

from retinue.errors import RetinueError
from retinue_engine.stores.rows import RunRow
from retinue_engine.stores.store import Store

log = structlog.get_logger()

HEAR_S = 1.0
"""How often at least the store is asked, for all runs together, for which ones there is a word."""

LOOK_S = 1.0
"""How often the store is asked for runs that nobody works on."""

RETRY_S = 0.2
"""How soon leases are renewed again after the store could not be reached."""

RENEW_TOGETHER = 1_000
"""Leases of one request."""


class Runs(Protocol):
    """The runs of this engine."""

    def held(self) -> Sequence[RunRow]:
        """Those that it works on."""

    async def hear(self, run_ids: Sequence[str]) -> None:
        """There is a word for runs, whoever works on them."""

    def hear_lost(self, run: RunRow) -> None:
        """Another engine has taken a run over."""

    def lease_us(self) -> int:
        """When a lease that begins now is over."""


class Finder(Protocol):
    """Who takes over runs."""

    async def sweep(self) -> bool:
        """Take over what nobody works on; whether there may be more at once."""


class Leases:
    """Three endless tasks. Nothing here decides what is right: a lease only says when to try."""

    def __init__(self, store: Store, runs: Runs, finder: Finder, lease_s: float) -> None:
        self._store = store
        self._runs = runs
        self._finder = finder
        self._lease_s = lease_s
        self._heard_at = asyncio.get_running_loop().time()
        self._patient_until = 0.0

    async def renew(self) -> None:
        """Renew the leases three times in their life, and let go of runs that another engine has."""
        while True:
            began = _now()
            wait_s = self._lease_s / 3
            try:
                await self._renew_all(self._runs.held())
            except RetinueError as error:
                log.warning("cannot renew leases, trying again", error=error.message)
                wait_s = min(wait_s, RETRY_S)
            await asyncio.sleep(max(began + wait_s - _now(), wait_s / 10))

    async def _renew_all(self, held: Sequence[RunRow]) -> None:
        for start in range(0, len(held), RENEW_TOGETHER):
            some = held[start : start + RENEW_TOGETHER]
            lost = set(await self._store.renew_leases(some, self._runs.lease_us()))
            for run in some:
                if run.run_id in lost:
                    self._runs.hear_lost(run)

    async def hear(self) -> None:
        """Hear of the cancels, pauses and answers that came to other engines."""
        commanded: Sequence[str] = ()
        while True:
            await self._store.await_command(min(HEAR_S, self._lease_s / 4))
            try:
                # Those that were not told the last time may have no word in the store any more.
                commanded = [*{*commanded, *await self._store.commanded_runs()}]
                self._reached()
                if commanded:
                    await self._runs.hear(commanded)
                commanded = ()
            except RetinueError as error:
                log.warning("cannot hear what people want of runs, trying again", error=error.message)

    def _reached(self) -> None:
        """Note that the store answers.

        Where this engine or the store stood still, others may have been unable to renew their leases as well:
        they get the time to, or engines would take one another's runs whenever a store comes back.
        """
        now = _now()
        if now - self._heard_at > self._lease_s / 2:
            self._patient_until = now + self._lease_s
        self._heard_at = now

    def _may_look(self) -> bool:
        now = _now()
        return now >= self._patient_until and now - self._heard_at <= self._lease_s / 2

    async def look(self) -> None:
        """Take over the runs of engines that have stopped."""
        more = False
        while True:
            if not more:
                await asyncio.sleep(min(LOOK_S, self._lease_s / 3))
            more = False
            if not self._may_look():
                continue
            try:
                more = await self._finder.sweep()
            except RetinueError as error:
                log.warning("cannot look for runs that nobody works on, trying again", error=error.message)


def _now() -> float:
    return asyncio.get_running_loop().time()
