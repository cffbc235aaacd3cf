"""What the peers' scripts share: rounds of agent runs in their own process, on command.

Says `ready` first. Each line of input, `IN_FLIGHT SECONDS`, is a round; its figures are a line of JSON. It
imports the standard library and uvloop alone: a peer's environment holds the peer.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import uvloop

ANSWER = "The tool said hello."
MESSAGE = "Say hello."
INSTRUCTIONS = "You are terse."

Ask = Callable[[str], Awaitable[str]]
"""Runs the agent on a message, taking in its text as it streams, and returns the last answer."""


@dataclass(frozen=True)
class Place:
    """Where the model and the tool server are."""

    base_url: str
    tool_command: str
    tool_arguments: list[str]


OpenAgent = Callable[[Place], AbstractAsyncContextManager[Ask]]
"""Opens the agent with its one kept MCP session over stdio."""


async def _round(ask: Ask, in_flight: int, seconds: float) -> dict[str, float]:
    times: list[float] = []
    begin, used = time.perf_counter(), time.process_time()

    async def worker() -> None:
        while (start := time.perf_counter()) < begin + seconds:
            answer = await ask(MESSAGE)
            if answer != ANSWER:
                raise ValueError(f"the agent answered {answer!r}")
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    elapsed = time.perf_counter() - begin
    return {
        "runs_per_s": len(times) / elapsed,
        "p50_ms": sorted(times)[len(times) // 2] * 1000,
        "cpu_ms_per_run": (time.process_time() - used) / len(times) * 1000,
    }


async def _serve(open_agent: OpenAgent, place: Place) -> None:
    async with open_agent(place) as ask:
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            in_flight, seconds = line.split()
            print(json.dumps(await _round(ask, int(in_flight), float(seconds))), flush=True)


def main(open_agent: OpenAgent) -> None:
    """Serve rounds until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("tool", nargs="+")
    arguments = parser.parse_args()
    place = Place(arguments.base_url, arguments.tool[0], arguments.tool[1:])
    uvloop.run(_serve(open_agent, place))
