"""A process of watchers of one run.

It says `watching` once each has the first event, and at the end, as JSON, when each had the last one and the
processor time that it took.
"""

import argparse
import asyncio
import json
import os
import time

import grpc
import uvloop

from bench.load import check_story
from retinue.engine.v1 import event_pb2, service_pb2, service_pb2_grpc

_A_CHANNEL = 50
"""Watchers of one connection."""
_TIMEOUT_S = 120.0


class Watchers:
    """Those who watch one run."""

    def __init__(self, run_id: str, count: int) -> None:
        self._request = service_pb2.WatchRunRequest(run_id=run_id)
        self._count = count
        self._watching = 0
        self._ends: list[float] = []

    async def watch(self, address: str) -> list[float]:
        """Watch to the end; when each had the last event, in seconds since 1970. Raises BenchError."""
        async with asyncio.TaskGroup() as group:
            for first in range(0, self._count, _A_CHANNEL):
                group.create_task(self._watch_by_one(address, min(_A_CHANNEL, self._count - first)))
        return self._ends

    async def _watch_by_one(self, address: str, count: int) -> None:
        # Else channels to one address share a connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(address, options) as channel:
            stub = service_pb2_grpc.RunServiceStub(channel)
            await asyncio.gather(*(self._watch(stub) for _ in range(count)))

    async def _watch(self, stub: service_pb2_grpc.RunServiceStub) -> None:
        events: list[event_pb2.RunEvent] = []
        async for response in stub.WatchRun(self._request, timeout=_TIMEOUT_S):
            if not events:
                self._watching += 1
                if self._watching == self._count:
                    print("watching", flush=True)
            events.extend(response.events)
        self._ends.append(time.time())
        check_story("watched", events)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("run_id")
    parser.add_argument("count", type=int)
    arguments = parser.parse_args()
    # The model, which has the same core, comes first: it is the run that is measured.
    os.nice(10)
    watchers = Watchers(arguments.run_id, arguments.count)
    ends = uvloop.run(watchers.watch(arguments.address))
    print(json.dumps({"ends": ends, "cpu_s": time.process_time()}), flush=True)
