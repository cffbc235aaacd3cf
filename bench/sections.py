"""The sections under load: floor and Retinue by turns, medians over rounds, ratios within a round."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.servers.mongodb import given_uri, run_mongodb

from bench.load import Figures, Load
from bench.processes import pin, rss_mib
from bench.suite import Suite, System, open_suite

Cells = dict[str, Any]
"""What a section found: plain JSON."""


async def settle(suite: Suite, *agents: str) -> None:
    """Let each system make its first runs: connections, tool servers, caches."""
    load = Load(suite.model)
    for system in (suite.floor, suite.retinue):
        for agent in agents:
            await load.round(system, agent, 1, 0.05)


async def measure(suite: Suite, agent: str, in_flight: int, *, rounds: int, seconds: float) -> Cells:
    """Load floor and Retinue by turns. The ratio is the median of the rounds' ratios, Retinue to floor."""
    load = Load(suite.model)
    found: dict[str, list[Figures]] = {"floor": [], "retinue": []}
    for number in range(rounds):
        # Each is first by turns: what drifts during a round favours neither.
        pair = [suite.floor, suite.retinue]
        for system in pair if number % 2 == 0 else reversed(pair):
            found[system.name].append(await load.round(system, agent, in_flight, seconds))
    return {
        "in_flight": in_flight,
        "rounds": rounds,
        "floor": medians(found["floor"]),
        "retinue": medians(found["retinue"]),
        "ratio": ratios(found["retinue"], found["floor"]),
        "all": found,
    }


def medians(figures: list[Figures]) -> Figures:
    """The median of each figure over rounds."""
    return {name: median(each[name] for each in figures) for name in figures[0]}


def ratios(ours: list[Figures], floor: list[Figures]) -> Figures:
    """Of each figure that both have, the median of the rounds' ratios."""
    names = [name for name in ours[0] if name in floor[0]]
    return {
        name: median(a[name] / b[name] if b[name] else 0.0 for a, b in zip(ours, floor, strict=True))
        for name in names
    }


def memory(suite: Suite) -> Cells:
    """Resident MiB of each process now."""

    def of(system: System) -> Figures:
        return {each.name: rss_mib(each.pid) for each in (*system.processes, *system.around)}

    return {**of(suite.floor), **of(suite.retinue)}


async def loaded(suite: Suite, name: str, concurrencies: list[int], *, rounds: int, seconds: float) -> Cells:
    """One agent at each concurrency."""
    return {
        str(in_flight): await measure(suite, name, in_flight, rounds=rounds, seconds=seconds)
        for in_flight in concurrencies
    }


async def measure_litellm(*, rounds: int, seconds: float) -> Cells:
    """Agent runs where floor and Retinue ask the model by litellm."""
    with open_suite(litellm=True) as suite:
        await settle(suite, "agent")
        return await loaded(suite, "agent", [1, 32], rounds=rounds, seconds=seconds)


async def measure_mongodb(*, rounds: int, seconds: float) -> Cells:
    """Agent runs on MongoDB: the server that RETINUE_TEST_MONGODB_URI names, else secantusdb."""
    # What is started here is none of what is measured.
    pin()
    with ExitStack() as stack:
        uri = given_uri()
        if uri is None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="retinue-bench-")))
            uri = stack.enter_context(run_mongodb(folder)).uri()
        suite = stack.enter_context(open_suite(engine_environment={"RETINUE_STORE": uri}))
        await settle(suite, "agent")
        return await loaded(suite, "agent", [1, 32], rounds=rounds, seconds=seconds)


async def quiet() -> None:
    """Give what the start left behind (imports that warm up) time to end."""
    await asyncio.sleep(4.0)
