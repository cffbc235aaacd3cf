"""Processes killed and stopped at random moments under load, streams cut at random; then every story is read.

RETINUE_CHAOS=long makes it last; RETINUE_CHAOS_SEED repeats the choices of a run that is printed.
"""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from tests.chaos.checker import Report, judge
from tests.chaos.engines import LEASE_S, Engines, open_engines, standing_still
from tests.chaos.facts import gather_facts
from tests.chaos.load import SCRIPT, Load
from tests.suite import Processes, open_processes, stdio_server

pytestmark = [pytest.mark.xdist_group("chaos")]

LONG = os.environ.get("RETINUE_CHAOS") == "long"
SEED = int(os.environ.get("RETINUE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ROUNDS = 40 if LONG else 2
MONGODB_ROUNDS = 40 if LONG else 1
RUNS_A_ROUND = 80 if LONG else 60
MONGODB_RUNS_A_ROUND = 60 if LONG else 40
BOUND_S = 110 if LONG else 90


def summary(store: str, load: Load, done: "Counter[str]", report: Report, began: float) -> None:
    """Print what happened."""
    what = ", ".join(f"{count} x {name}" for name, count in sorted(done.items()))
    print(  # noqa: T201 - the summary is what this is run for
        f"\nchaos on {store}: seed {SEED}, {len(load.accepted)} runs, {what}, {load.cuts} streams cut, "
        f"{load.changes} changes of engine, {report}, {time.monotonic() - began:.0f} s, "
        f"violations: {len(report.violations)}"
    )
    assert not report.violations, f"seed {SEED}: " + "\n".join(report.violations)
    assert report.states[run_pb2.RUN_STATE_SUCCEEDED] > len(load.accepted) // 2


async def disturb(suite: Processes, chance: random.Random, done: "Counter[str]") -> None:
    """Kill engine or host, or let one stand still, a few times at random moments."""
    for _ in range(4):
        await asyncio.sleep(0.1 + chance.random())
        what = chance.choice(
            ("engine killed", "engine killed", "host killed", "engine stopped", "host stopped")
        )
        process = suite.engine_process if what.startswith("engine") else suite.host_process
        if what.endswith("stopped"):
            async with standing_still(process):
                await asyncio.sleep(0.5 + chance.random())
        else:
            await process.kill()
            await asyncio.sleep(chance.random() * 0.2)
            await process.start()
        done[what] += 1


@pytest.mark.timeout(7200 if LONG else 110)
async def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    done: Counter[str] = Counter()
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents={"b": {"mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    ) as suite:
        load = Load([suite.client], chance)
        for round_ in range(ROUNDS):
            first = round_ * RUNS_A_ROUND
            async with asyncio.timeout(BOUND_S):
                await asyncio.gather(
                    *(load.one(number) for number in range(first, first + RUNS_A_ROUND)),
                    disturb(suite, chance, done),
                )
        report = judge(await gather_facts([suite], load.accepted, load.seen))
    summary("sqlite", load, done, report, began)


async def disturb_engines(
    engines: Engines, chance: random.Random, done: "Counter[str]", resumed: list[float]
) -> None:
    """Kill engines and the database, and let engines stand still past their lease, at random moments."""
    names = ["engine killed", "engine killed", "engine stopped", *["database killed"] * bool(engines.mongodb)]
    chance.shuffle(names)
    for what in names:
        await asyncio.sleep(0.2 + chance.random())
        process = chance.choice(engines.processes)
        if what == "engine killed":
            await process.kill()
            await asyncio.sleep(chance.random() * LEASE_S * 1.2)
            await process.start()
        elif what == "engine stopped":
            async with standing_still(process):
                await asyncio.sleep(LEASE_S * (1 + chance.random()))
                resumed.append(time.time())
        elif engines.mongodb:
            engines.mongodb.kill()
            await asyncio.sleep(chance.random())
            await asyncio.to_thread(engines.mongodb.start)
        done[what] += 1


@pytest.mark.timeout(7200 if LONG else 110)
async def test_nothing_is_lost_or_done_twice_where_two_engines_share_a_mongodb(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    done: Counter[str] = Counter()
    resumed: list[float] = []
    async with open_engines(
        tmp_path,
        SCRIPT,
        agents={"b": {"mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    ) as engines:
        load = Load([suite.client for suite in engines.suites], chance)
        for round_ in range(MONGODB_ROUNDS):
            first = round_ * MONGODB_RUNS_A_ROUND
            async with asyncio.timeout(BOUND_S):
                await asyncio.gather(
                    *(load.one(number) for number in range(first, first + MONGODB_RUNS_A_ROUND)),
                    disturb_engines(engines, chance, done, resumed),
                )
        report = judge(await gather_facts(engines.suites, load.accepted, load.seen, resumed))
    summary("mongodb", load, done, report, began)
