"""Many runs at once: the model holds its answers until all of them run."""

import asyncio
import time
from contextlib import AsyncExitStack

import aiohttp
import grpc

from bench.conditions import Held
from bench.load import RUN_TIMEOUT_S, Tally, run_for, run_once
from bench.processes import BenchError, cpu_s, rss_mib
from bench.services import Retinue, open_retinue
from retinue.engine.v1 import service_pb2_grpc

RUNS = 1_000


async def measure_many() -> dict[str, float]:
    """Figures of 1,000 agent runs that are at work at the same moment, and all end."""
    async with AsyncExitStack() as stack:
        retinue = stack.enter_context(open_retinue())
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(retinue.engine.address))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        stub = service_pb2_grpc.RunServiceStub(channel)
        # What one run costs once is not what many cost.
        await run_for(stub, "agent", 1, 0.3)
        try:
            return await _measure(retinue, stub, Held(retinue.model_url, http))
        except ExceptionGroup as failures:
            failure = failures.exceptions[0]
            if isinstance(failure, grpc.aio.AioRpcError):
                failure = BenchError(f"one of many runs failed: {failure.code()}: {failure.details()}")
            raise failure from None


async def _measure(retinue: Retinue, stub: service_pb2_grpc.RunServiceStub, held: Held) -> dict[str, float]:
    engine = retinue.engine.process
    before_mib, before_s, begin = rss_mib(engine.pid), cpu_s(engine.pid), time.perf_counter()
    tally = Tally()
    async with asyncio.TaskGroup() as group:
        for _ in range(RUNS):
            group.create_task(run_once(stub, "held", tally))
        await held.until(RUNS, RUN_TIMEOUT_S)
        all_s = time.perf_counter() - begin
        held_mib, host_mib = rss_mib(engine.pid), rss_mib(retinue.host.pid)
        await held.release()
    elapsed = time.perf_counter() - begin
    return {
        "runs at once, all ended": len(tally.run_s),
        "from the first start until all were at work, s": all_s,
        "from then until all had ended, s": elapsed - all_s,
        "CPU of the engine per run, ms": (cpu_s(engine.pid) - before_s) / RUNS * 1000,
        "engine's memory before, MiB": before_mib,
        "engine's memory with all at work, MiB (target: under 500)": held_mib,
        "engine's memory after, MiB": rss_mib(engine.pid),
        "host's memory with all at work, MiB": host_mib,
    }
