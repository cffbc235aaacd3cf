"""Many watchers of one run: whether they slow it."""

import asyncio
import json
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import aiohttp
import grpc

from bench.conditions import Held
from bench.fake_model import CHUNK_S
from bench.load import percentile
from bench.model_answers import CHUNKS
from bench.processes import BenchError, Process, cpu_s, rss_mib, started
from bench.services import Retinue, open_retinue
from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.registry.v1 import component_pb2

_START_S = 60.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Watched:
    """One run that was watched."""

    run_s: float
    """From the model's release to the run's last event, by the engine's clock."""
    lags_s: list[float]
    """From the last event until each watcher had it."""
    cpu_s: float
    """Of the engine."""
    watchers_cpu_s: float
    """Of the process of the watchers: where it is as long as the run, their lag is their own."""
    memory_mib: float
    """Of the engine, at its end."""


async def measure_watchers(*, watchers: int, rounds: int) -> dict[str, float]:
    """Figures of a run that many watch, and of one that one watches, by turns."""
    async with AsyncExitStack() as stack:
        retinue = stack.enter_context(open_retinue())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(retinue.engine.address))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        round_ = _Round(retinue, service_pb2_grpc.RunServiceStub(channel), Held(retinue.model_url, http))
        one, many = [], []
        for _ in range(rounds):
            one.append(await round_.watch(1))
            many.append(await round_.watch(watchers))
    slower = median(all_.run_s / alone.run_s for all_, alone in zip(many, one, strict=True))
    lags = [lag for each in many for lag in each.lags_s]
    return {
        "watchers of one run, all saw the whole of it": watchers,
        "chunks of text, one at a time": CHUNKS,
        "the model alone takes, s": (CHUNKS - 1) * CHUNK_S,
        "the run with 1 watcher, s": median(each.run_s for each in one),
        "the run with all watchers, s": median(each.run_s for each in many),
        "ratio (target: at most 1.10)": slower,
        "last event until a watcher has it, one watcher, ms": median(one[-1].lags_s) * 1000,
        "the same with all watchers, p50, ms": median(lags) * 1000,
        "the same with all watchers, p99, ms": percentile(lags, 0.99) * 1000,
        "CPU of the engine with 1 watcher, s": median(each.cpu_s for each in one),
        "CPU of the engine with all watchers, s": median(each.cpu_s for each in many),
        "CPU of the process of all watchers, s": median(each.watchers_cpu_s for each in many),
        "engine's memory with all watchers, MiB": max(each.memory_mib for each in many),
    }


class _Round:
    """One run after the other, each with its watchers."""

    def __init__(self, retinue: Retinue, stub: service_pb2_grpc.RunServiceStub, held: Held) -> None:
        self._retinue = retinue
        self._stub = stub
        self._held = held

    async def watch(self, count: int) -> _Watched:
        """A run with so many watchers. Raises BenchError."""
        retinue, engine = self._retinue, self._retinue.engine.process
        target = component_pb2.ComponentRef(kind=component_pb2.COMPONENT_KIND_AGENT, name="watched")
        request = service_pb2.RunRequest(request_id=uuid.uuid4().hex, target=target, message="Speak.")
        try:
            start = service_pb2.StartRunRequest(run=request)
            run_id = (await self._stub.StartRun(start, timeout=_TIMEOUT_S)).run.run_id
            await self._held.until(1, _START_S)
            arguments = ["-m", "bench.watcher", retinue.engine.address, run_id, str(count)]
            with started("watchers", arguments, core=retinue.rest) as process:
                await asyncio.to_thread(process.read_first_line)
                before_s, begin = cpu_s(engine.pid), time.time()
                await self._held.release()
                seen = await asyncio.to_thread(_seen, process)
            memory_mib, used_s = rss_mib(engine.pid), cpu_s(engine.pid) - before_s
            get = service_pb2.GetRunRequest(run_id=run_id)
            run = (await self._stub.GetRun(get, timeout=_TIMEOUT_S)).run
        except grpc.aio.AioRpcError as failure:
            raise BenchError(f"a watched run failed: {failure.code()}: {failure.details()}") from None
        end = run.end_time.ToNanoseconds() / 1e9
        lags_s = [each - end for each in seen["ends"]]
        return _Watched(end - begin, lags_s, used_s, seen["cpu_s"], memory_mib)


def _seen(process: Process) -> dict[str, Any]:
    assert process.process.stdout is not None
    line = process.process.stdout.readline()
    if not line:
        raise BenchError("the watchers ended early: see their output above")
    seen: dict[str, Any] = json.loads(line)
    return seen
