"""What an engine does by the clock: how often, and with how much patience."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from retinue.errors import StoreUnavailableError
from retinue_engine.runs.leases import RENEW_TOGETHER, Leases
from retinue_engine.stores.rows import RunRow
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import make_run
from tests.suite import until


class Shared:
    """A store, and an engine's runs, that count what they are asked."""

    def __init__(self, held: int = 0) -> None:
        self.rows = [make_run() for _ in range(held)]
        self.renewed: list[int] = []
        self.heard: list[float] = []
        self.sweeps: list[float] = []
        self.told: list[object] = []
        self.lost: list[str] = []
        self.commanded: list[str] = []
        self.reachable = True
        self.deaf = 0
        """How often still it cannot be told of words."""

    def _reach(self) -> None:
        if not self.reachable:
            raise StoreUnavailableError("gone", store="mongodb")

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:
        self._reach()
        assert lease_us == self.lease_us()
        self.renewed.append(len(runs))
        return self.lost

    async def await_command(self, longest_s: float) -> None:
        assert longest_s <= 1
        await asyncio.sleep(0.1)

    async def commanded_runs(self) -> list[str]:
        self._reach()
        self.heard.append(asyncio.get_running_loop().time())
        return self.commanded

    def held(self) -> Sequence[RunRow]:
        return self.rows

    async def hear(self, run_ids: Sequence[str]) -> None:
        if self.deaf:
            self.deaf -= 1
            self.commanded = []  # the store has told its words once
            raise StoreUnavailableError("gone", store="mongodb")
        self.told.extend(run_ids)

    def hear_lost(self, run: RunRow) -> None:
        self.told.append(run.run_id)

    def lease_us(self) -> int:
        return 77

    async def sweep(self) -> bool:
        self._reach()
        self.sweeps.append(asyncio.get_running_loop().time())
        return False


@asynccontextmanager
async def keeping(shared: Shared, lease_s: float) -> AsyncIterator[None]:
    leases = Leases(cast(Store, shared), shared, shared, lease_s)
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(each()) for each in (leases.renew, leases.hear, leases.look)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_leases_are_renewed_by_the_lease_and_cancels_are_asked_for_all_the_time() -> None:
    shared = Shared(held=10_000)
    async with keeping(shared, 60):
        await until(lambda: len(shared.heard) >= 5, "it hears")
    assert shared.heard[-1] - shared.heard[-5] < 5 * 4 * 0.1
    # Once, in a few requests: the next time is a third of the lease away.
    assert shared.renewed == [RENEW_TOGETHER] * 10


async def test_what_is_heard_is_told() -> None:
    shared = Shared(held=2)
    shared.lost = [shared.rows[1].run_id]
    shared.commanded = ["run-x"]
    async with keeping(shared, 60):
        await until(lambda: len(shared.told) >= 2, "both are told")
    assert shared.told[:2] == [shared.rows[1].run_id, "run-x"]


async def test_what_could_not_be_told_is_told_the_next_time() -> None:
    shared = Shared()
    shared.commanded, shared.deaf = ["run-x"], 1
    async with keeping(shared, 60):
        await until(lambda: shared.told, "it is told")
    assert (shared.told[0], shared.deaf) == ("run-x", 0)


async def test_leases_are_renewed_soon_after_the_store_is_back() -> None:
    shared = Shared(held=1)
    shared.reachable = False
    async with keeping(shared, 60):
        await asyncio.sleep(0)
        shared.reachable = True
        await until(lambda: shared.renewed, "it renews")


async def test_after_the_store_was_gone_others_have_a_lease_of_time_to_renew() -> None:
    shared = Shared()
    async with keeping(shared, 0.6):
        await until(lambda: shared.sweeps, "it looks")
        shared.reachable = False
        gone = asyncio.get_running_loop().time()
        await until(lambda: asyncio.get_running_loop().time() - gone > 0.8, "longer than a lease")
        heard, swept = len(shared.heard), len(shared.sweeps)
        shared.reachable = True
        await until(lambda: len(shared.sweeps) > swept, "it looks again")
    assert shared.sweeps[swept] - shared.heard[heard] >= 0.6
