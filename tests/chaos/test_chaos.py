"""Processes killed and stopped at random moments under load, streams cut at random; then every story is read.

RETINUE_CHAOS=long makes it last; RETINUE_CHAOS_SEED repeats the choices of a run that is printed.
"""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from tests.chaos.checker import judge
from tests.chaos.engines import LEASE_S, Engines, open_engines, standing_still
from tests.chaos.facts import Facts, read_views
from tests.chaos.load import load_on
from tests.chaos.world import SCRIPT, project
from tests.suite import Processes, Suite, open_processes

pytestmark = [pytest.mark.xdist_group("chaos")]

LONG = os.environ.get("RETINUE_CHAOS") == "long"
SEED = int(os.environ.get("RETINUE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ROUNDS = range(6 if LONG else 1)
"""Each has its own seed; tests are named by these, which are the same in every process of a run."""
RUNS = 120 if LONG else 50
MONGODB_RUNS = 80 if LONG else 30
OVER_S = 15.0 if LONG else 3.0
"""The time over which runs are started, and processes die."""
BOUND_S = 150 if LONG else 75


class Trial:
    """One load under one seed, and what was done to it."""

    def __init__(self, store: str, seed: int, suites: Sequence[Suite]) -> None:
        self._store = store
        self._seed = seed
        self._suites = suites
        self._began = time.monotonic()
        self.chance = random.Random(seed)
        self.load = load_on([suite.client for suite in suites], seed, OVER_S)
        self.done: Counter[str] = Counter()
        self.resumed: list[float] = []
        """When engines that had been stopped went on."""

    async def stand(self, runs: int, disturb: Callable[["Trial"], Awaitable[None]]) -> None:
        """Start runs while processes are disturbed, wait for their ends, and judge."""
        load = self.load
        stuck = False
        try:
            async with asyncio.timeout(BOUND_S), load.people.answering():
                await asyncio.gather(*map(load.one, range(runs)), disturb(self))
        except TimeoutError:
            stuck = True
        self.done["s of load"] = round(time.monotonic() - self._began)
        await self._judge(stuck=stuck)

    async def _judge(self, *, stuck: bool) -> None:
        load, model = self.load, self._suites[0].model
        facts = Facts(
            load.accepted,
            load.seen,
            await read_views(self._suites, load.accepted),
            list(zip(model.requests, model.times, strict=True)),
            self._suites[0].notes(),
            self.resumed,
            load.watched,
            load.people.answered,
            load.people.cancelled,
        )
        report = judge(facts)
        if stuck:
            report.violations.append(f"not all was done within {BOUND_S} s")
        what = ", ".join(
            f"{count} x {name}" for name, count in sorted((self.done + load.people.done).items())
        )
        print(  # noqa: T201 - the summary is what this is run for
            f"\nchaos on {self._store}: seed {self._seed}, {len(load.accepted)} runs, {what}, "
            f"{load.cuts} streams cut, {load.callers.changes} changes of engine, {report}, "
            f"{time.monotonic() - self._began:.0f} s, violations: {len(report.violations)}"
        )
        assert not report.violations, f"seed {self._seed}: " + "\n".join(report.violations)
        assert report.states[run_pb2.RUN_STATE_SUCCEEDED] > len(load.accepted) // 2


async def disturb(trial: Trial, suite: Processes) -> None:
    """Kill engine or host, or let one stand still, at random moments."""
    end = time.monotonic() + OVER_S + 1
    while time.monotonic() < end:
        await asyncio.sleep(0.1 + trial.chance.random())
        what = trial.chance.choice(
            ("engine killed", "engine killed", "host killed", "engine stopped", "host stopped")
        )
        process = suite.engine_process if what.startswith("engine") else suite.host_process
        if what.endswith("stopped"):
            async with standing_still(process):
                await asyncio.sleep(0.5 + trial.chance.random())
        else:
            await process.kill()
            await asyncio.sleep(trial.chance.random() * 0.2)
            await process.start()
        trial.done[what] += 1


@pytest.mark.timeout(300 if LONG else 120)
@pytest.mark.parametrize("number", ROUNDS)
async def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path, number: int) -> None:
    async with open_processes(tmp_path, SCRIPT, **project(tmp_path)) as suite:
        trial = Trial("sqlite", SEED + number, [suite])
        await trial.stand(RUNS, lambda trial: disturb(trial, suite))


async def disturb_engines(trial: Trial, engines: Engines) -> None:
    """Kill engines, host and database, and let engines stand still past their lease, at random moments."""
    chance = trial.chance
    every = ["engine killed", "engine killed", "engine stopped", "host killed"]
    every += ["database killed"] * bool(engines.mongodb)
    for _ in range(2 if LONG else 1):
        for what in chance.sample(every, len(every) if LONG else 3):
            await asyncio.sleep(0.2 + chance.random())
            process = chance.choice(engines.processes)
            if what == "engine killed":
                await process.kill()
                await asyncio.sleep(chance.random() * LEASE_S * 1.2)
                await process.start()
            elif what == "engine stopped":
                async with standing_still(process):
                    await asyncio.sleep(LEASE_S * (1 + chance.random()))
                    trial.resumed.append(time.time())
            elif what == "host killed":
                await engines.first.host_process.kill()
                await engines.first.host_process.start()
            elif engines.mongodb:
                engines.mongodb.kill()
                await asyncio.sleep(chance.random())
                await asyncio.to_thread(engines.mongodb.start)
            trial.done[what] += 1


@pytest.mark.timeout(300 if LONG else 120)
@pytest.mark.parametrize("number", ROUNDS)
async def test_nothing_is_lost_or_done_twice_where_two_engines_share_a_mongodb(
    tmp_path: Path, number: int
) -> None:
    async with open_engines(tmp_path, SCRIPT, **project(tmp_path)) as engines:
        trial = Trial("mongodb", SEED + number, engines.suites)
        await trial.stand(MONGODB_RUNS, lambda trial: disturb_engines(trial, engines))
