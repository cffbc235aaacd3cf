"""The load: so many runs in flight for so long, over one channel; every run's story is checked."""

import asyncio
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc

from bench.fake_model import PACE_S
from bench.model_answers import ANSWER, ARGUMENTS, CHUNKS, TEXT
from bench.processes import BenchError, Process, Usage
from bench.suite import System
from retinue.engine.v1 import event_pb2, run_pb2, service_pb2, service_pb2_grpc
from retinue.registry.v1 import component_pb2

RUN_TIMEOUT_S = 60.0
WARM_S = 0.3
"""Load before a round that does not count: connections are opened, code is warm."""

Figures = dict[str, float]

_TOOL_TURN = ["turn_started", "message_completed", "tool_call_started", "tool_call_completed"]
_LAST_TURN = ["turn_started", "text_delta", "message_completed"]
_WITH_TOOL = ["run_started", *_TOOL_TURN, *_LAST_TURN, "run_finished"]
STORIES = {
    "agent": _WITH_TOOL,
    "paced": _WITH_TOOL,
    "held": _WITH_TOOL,
    "text": ["run_started", *_LAST_TURN, "run_finished"],
    "watched": ["run_started", *_LAST_TURN, "run_finished"],
}
"""The events of a run of each agent; one `text_delta` stands for any number."""
OUTPUTS = {"agent": ANSWER, "paced": ANSWER, "held": ANSWER, "text": TEXT, "watched": TEXT}


@dataclass
class Tally:
    """What a round has seen."""

    run_s: list[float] = field(default_factory=list)
    first_event_s: list[float] = field(default_factory=list)
    deltas: int = 0
    events: int = 0


def check_story(agent: str, events: Sequence[event_pb2.RunEvent]) -> int:
    """Raise BenchError for a story that is not the agent's; return its number of text deltas."""
    kinds: list[str | None] = []
    text = ""
    deltas = 0
    for number, event in enumerate(events, 1):
        kind = event.WhichOneof("event")
        if event.sequence != number:
            raise BenchError(f"{agent}: event {number} has sequence {event.sequence}")
        if kind == "text_delta":
            deltas += 1
            text += event.text_delta.text
            if kinds[-1] == kind:
                continue
        kinds.append(kind)
    if kinds != STORIES[agent]:
        last = f"; it ends with: {events[-1]}" if events else ""
        raise BenchError(f"{agent}: the run's events are {kinds}, not {STORIES[agent]}{last}")
    result = events[-1].run_finished.result
    if result.state != run_pb2.RUN_STATE_SUCCEEDED or not result.output == text == OUTPUTS[agent]:
        raise BenchError(f"{agent}: the run did not end as it should: {result}, text {text!r}")
    for event in events:
        if event.HasField("tool_call_completed") and event.tool_call_completed.text not in ARGUMENTS:
            raise BenchError(f"{agent}: the tool answered {event.tool_call_completed}")
    return deltas


async def run_once(stub: service_pb2_grpc.RunServiceStub, agent: str, tally: Tally) -> None:
    """Make one run and take it into the tally."""
    target = component_pb2.ComponentRef(kind=component_pb2.COMPONENT_KIND_AGENT, name=agent)
    # As the client library does: an id of our own for each run.
    run = service_pb2.RunRequest(request_id=uuid.uuid4().hex, target=target, message="Say hello.")
    events: list[event_pb2.RunEvent] = []
    start = time.perf_counter()
    first = 0.0
    async for response in stub.StreamRun(service_pb2.StreamRunRequest(run=run), timeout=RUN_TIMEOUT_S):
        if not first and response.events:
            first = time.perf_counter() - start
        events.extend(response.events)
    tally.run_s.append(time.perf_counter() - start)
    tally.first_event_s.append(first)
    tally.deltas += check_story(agent, events)
    tally.events += len(events)


async def run_for(stub: service_pb2_grpc.RunServiceStub, agent: str, in_flight: int, seconds: float) -> Tally:
    """Keep so many runs in flight for so long, then wait for the last of them."""
    tally = Tally()
    spread_s = 2 * PACE_S if agent == "paced" else 0.0
    until = time.perf_counter() + seconds

    async def worker(number: int) -> None:
        # Evenly apart where the model paces them: in step they would come in bursts.
        await asyncio.sleep(spread_s * number / in_flight)
        while time.perf_counter() < until:
            await run_once(stub, agent, tally)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(in_flight):
                group.create_task(worker(number))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return tally


def percentile(values: list[float], part: float) -> float:
    """The value below which a part of the values lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


class Load:
    """Loads systems that ask one model, over kept channels."""

    def __init__(self, model: Process) -> None:
        self._model = model
        self._stubs: dict[str, service_pb2_grpc.RunServiceStub] = {}

    def _stub(self, system: System) -> service_pb2_grpc.RunServiceStub:
        if system.name not in self._stubs:
            channel = grpc.aio.insecure_channel(system.address)
            self._stubs[system.name] = service_pb2_grpc.RunServiceStub(channel)
        return self._stubs[system.name]

    async def round(self, system: System, agent: str, in_flight: int, seconds: float) -> Figures:
        """One round of load on one system, after a short one that does not count."""
        stub = self._stub(system)
        try:
            await run_for(stub, agent, in_flight, min(WARM_S, seconds))
            usage = Usage(self._pids(system))
            usage.begin()
            tally = await run_for(stub, agent, in_flight, seconds)
        except grpc.aio.AioRpcError as failure:
            raise BenchError(f"{system.name}: a run failed: {failure.code()}: {failure.details()}") from None
        elapsed, used = usage.end()
        for process in (*system.processes, *system.around, self._model):
            process.check()
        return _figures(system, agent, tally, elapsed, used)

    def _pids(self, system: System) -> dict[str, list[int]]:
        pids = {process.name: [process.pid] for process in (*system.processes, *system.around)}
        return {
            **pids,
            "tool servers": system.tool_servers(),
            "model": [self._model.pid],
            "load": [os.getpid()],
        }


def _figures(system: System, agent: str, tally: Tally, elapsed: float, used: dict[str, float]) -> Figures:
    runs = len(tally.run_s)
    own = sum(used[process.name] for process in system.processes)
    figures = {
        "runs_per_s": runs / elapsed,
        "p50_ms": percentile(tally.run_s, 0.5) * 1000,
        "p99_ms": percentile(tally.run_s, 0.99) * 1000,
        "first_event_p50_ms": percentile(tally.first_event_s, 0.5) * 1000,
        "first_event_p99_ms": percentile(tally.first_event_s, 0.99) * 1000,
        "cpu_ms_per_run": own / runs * 1000,
        "runs_per_cpu_s": runs / own if own else 0.0,
        "busy": own / elapsed,
        "busy_load": (used["load"] + used["model"] + used["tool servers"]) / elapsed,
    }
    if agent == "text":
        figures["chunks_per_s"] = runs * CHUNKS / elapsed
        figures["deltas_per_s"] = tally.deltas / elapsed
        figures["chunks_per_cpu_s"] = runs * CHUNKS / own if own else 0.0
    for name, seconds in used.items():
        figures[f"cpu_ms_per_run:{name}"] = seconds / runs * 1000
    return figures
