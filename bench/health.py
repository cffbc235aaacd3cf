"""Waiting until a service's health says SERVING."""

import asyncio
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes import START_S, BenchError, Process

_POLL_S = 0.002


async def until_serving(process: Process, address: str) -> None:
    """Wait until health says SERVING. Raises BenchError."""
    host, _, port = address.rpartition(":")
    until = time.perf_counter() + START_S
    while time.perf_counter() < until:
        process.check()
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            await asyncio.sleep(_POLL_S)
            continue
        writer.close()
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=START_S
            )
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
    raise BenchError(f"{process.name} was not healthy within {START_S} s")
