"""Engine and host killed at random moments under load, streams cut at random; then every story is read.

RETINUE_CHAOS=long makes it last; RETINUE_CHAOS_SEED repeats the choices of a run that is printed.
"""

import asyncio
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from retinue.client.backoff import backoff_s
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import CallCancelledError, ServiceUnavailableError
from tests.chaos.checker import Report, check_all
from tests.suite import Processes, open_processes, stdio_server

LONG = os.environ.get("RETINUE_CHAOS") == "long"
SEED = int(os.environ.get("RETINUE_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
ROUNDS = 40 if LONG else 2
RUNS_A_ROUND = 80 if LONG else 60


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
    """Runs that are started and watched while processes die."""

    suite: Processes
    chance: random.Random
    accepted: dict[str, str] = field(default_factory=dict)
    """What each run was asked."""
    seen: dict[str, list[event_pb2.RunEvent]] = field(default_factory=dict)
    cuts: int = 0

    async def start(self, number: int) -> str:
        kind = self.chance.choice(("count", "repeat", "talk"))
        message = f"{kind} #{number}#"
        session = f"s{self.chance.randrange(10)}" if self.chance.random() < 0.5 else ""
        waits = backoff_s()
        while True:
            try:
                run = await self.suite.client.runs.start(
                    "b", message, session_id=session, request_id=f"r{number}"
                )
            except (ServiceUnavailableError, CallCancelledError):
                await asyncio.sleep(next(waits))
                continue
            assert self.accepted.setdefault(run.run_id, message) == message
            return run.run_id

    async def follow(self, run_id: str) -> None:
        """Watch to the end, cutting the stream at random events."""
        events = self.seen.setdefault(run_id, [])
        while not (events and events[-1].WhichOneof("event") == "run_finished"):
            stream = self.suite.client.runs.watch(run_id, after_sequence=len(events))
            cut_after = self.chance.choice((1, 2, 5, 1000))
            async for event in stream:
                events.append(event)
                cut_after -= 1
                if not cut_after:
                    self.cuts += 1
                    break
            await stream.aclose()

    async def one(self, number: int) -> None:
        await asyncio.sleep(self.chance.random() * 6)
        await self.follow(await self.start(number))


async def disturb(suite: Processes, chance: random.Random) -> list[str]:
    """Kill engine or host a few times at random moments."""
    done = []
    for _ in range(3):
        await asyncio.sleep(0.1 + chance.random())
        victim = chance.choice(("engine", "engine", "host"))
        process = suite.engine_process if victim == "engine" else suite.host_process
        await process.kill()
        await asyncio.sleep(chance.random() * 0.2)
        await process.start()
        done.append(victim)
    return done


@pytest.mark.xdist_group("chaos")
@pytest.mark.timeout(3600 if LONG else 110)
async def test_nothing_accepted_is_lost_or_done_twice(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    began = time.monotonic()
    kills: list[str] = []
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents={"b": {"mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    ) as suite:
        load = Load(suite, chance)
        for round_ in range(ROUNDS):
            first = round_ * RUNS_A_ROUND
            async with asyncio.timeout(90):
                *_, killed = await asyncio.gather(
                    *(load.one(number) for number in range(first, first + RUNS_A_ROUND)),
                    disturb(suite, chance),
                )
            kills += killed or []
        report: Report = await check_all(suite, load.accepted, load.seen)
        print(  # noqa: T201 - the summary is what this is run for
            f"\nchaos: seed {SEED}, {len(load.accepted)} runs, {len(kills)} kills "
            f"({kills.count('engine')} engine, {kills.count('host')} host), {load.cuts} streams cut, "
            f"{report}, {time.monotonic() - began:.0f} s, violations: {len(report.violations)}"
        )
        assert not report.violations, f"seed {SEED}: " + "\n".join(report.violations)
        assert report.states[run_pb2.RUN_STATE_SUCCEEDED] > len(load.accepted) // 2
