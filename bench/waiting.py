"""Runs that wait for a person: what they cost while nobody answers, and how an engine starts again."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import grpc

from bench.conditions import until
from bench.model_answers import ANSWER
from bench.processes import BenchError, cpu_s, rss_mib
from bench.services import Engine, open_retinue
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2, service_pb2, service_pb2_grpc
from retinue.registry.v1 import component_pb2

_STARTERS = 32
_WARM = 100
_PAGE = 1000
_WAIT_S = 120.0
_TIMEOUT_S = 30.0


class People:
    """Those who start runs that ask, and answer them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._runs = service_pb2_grpc.RunServiceStub(channel)
        self._inputs = service_pb2_grpc.InputServiceStub(channel)

    async def start(self, count: int) -> float:
        """Start so many runs and wait until all wait; seconds that took. Raises BenchError."""
        begin = time.perf_counter()
        left = iter(range(count))

        async def start_each() -> None:
            target = component_pb2.ComponentRef(kind=component_pb2.COMPONENT_KIND_AGENT, name="asking")
            for _ in left:
                run = service_pb2.RunRequest(request_id=uuid.uuid4().hex, target=target, message="Ask me.")
                await self._runs.StartRun(service_pb2.StartRunRequest(run=run), timeout=_TIMEOUT_S)

        await asyncio.gather(*(start_each() for _ in range(_STARTERS)))
        at_work = service_pb2.ListRunsRequest(
            states=[run_pb2.RUN_STATE_QUEUED, run_pb2.RUN_STATE_RUNNING], page_size=1
        )

        async def none_at_work() -> bool:
            return not (await self._runs.ListRuns(at_work, timeout=_TIMEOUT_S)).runs

        await until(none_at_work, f"{count} runs wait for an answer", _WAIT_S)
        return time.perf_counter() - begin

    async def waiting(self) -> int:
        """How many runs wait."""
        request = service_pb2.ListRunsRequest(states=[run_pb2.RUN_STATE_WAITING], page_size=_PAGE)
        found = 0
        while True:
            page = await self._runs.ListRuns(request, timeout=_TIMEOUT_S)
            found += len(page.runs)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def answer(self, count: int) -> list[float]:
        """Answer so many, one after the other; seconds from each answer to its run's end.

        Raises BenchError.
        """
        page = await self._inputs.ListInputs(
            service_pb2.ListInputsRequest(page_size=count), timeout=_TIMEOUT_S
        )
        if len(page.inputs) != count:
            raise BenchError(f"{len(page.inputs)} of {count} inputs are there to be answered")
        taken = []
        for asked in page.inputs:
            begin = time.perf_counter()
            answer = service_pb2.AnswerInputRequest(
                run_id=asked.run_id,
                input_id=asked.input_id,
                answer=input_pb2.InputAnswer(value_json='"yes"'),
            )
            await self._inputs.AnswerInput(answer, timeout=_TIMEOUT_S)
            await self._see_end(asked.run_id)
            taken.append(time.perf_counter() - begin)
        return taken

    async def _see_end(self, run_id: str) -> None:
        events: list[event_pb2.RunEvent] = []
        watch = service_pb2.WatchRunRequest(run_id=run_id)
        async for response in self._runs.WatchRun(watch, timeout=_TIMEOUT_S):
            events.extend(response.events)
        result = events[-1].run_finished.result
        if result.state != run_pb2.RUN_STATE_SUCCEEDED or result.output != ANSWER:
            raise BenchError(f"a run that was answered ended with {events[-1]}")


@asynccontextmanager
async def _people(engine: Engine) -> AsyncIterator[People]:
    async with grpc.aio.insecure_channel(engine.address) as channel:
        yield People(channel)


async def _idle(engine: Engine, seconds: float) -> tuple[float, float]:
    """Memory in MiB, and the percentage of a core that the engine uses while nothing is asked of it."""
    # What was asked before is over, the import of what the first use warms up as well.
    await asyncio.sleep(seconds)
    before = cpu_s(engine.process.pid)
    await asyncio.sleep(seconds)
    used = cpu_s(engine.process.pid) - before
    return rss_mib(engine.process.pid), used / seconds * 100


async def measure_waiting(*, runs: int, answered: int, idle_s: float) -> dict[str, float]:
    """Figures of so many runs that wait, before and after the engine starts again."""
    with open_retinue() as retinue:
        engine = retinue.engine
        try:
            empty_s = await engine.restart()
            async with _people(engine) as people:
                await people.start(_WARM)
                await people.answer(_WARM)
                before_mib, before_cpu = await _idle(engine, idle_s)
                start_s = await people.start(runs)
                waiting_mib, waiting_cpu = await _idle(engine, idle_s)
                if (found := await people.waiting()) != runs:
                    raise BenchError(f"{found} runs wait instead of {runs}")
                taken = await people.answer(answered)
            again_s = await engine.restart()
            again_mib, again_cpu = await _idle(engine, idle_s)
            async with _people(engine) as people:
                if (found := await people.waiting()) != runs - answered:
                    raise BenchError(f"{found} runs wait after the restart instead of {runs - answered}")
                taken_again = await people.answer(answered)
        except grpc.aio.AioRpcError as failure:
            raise BenchError(f"waiting runs: {failure.code()}: {failure.details()}") from None
    return {
        "runs that wait for an answer": runs,
        "of them started and waiting per second": runs / start_s,
        "engine's memory before, MiB": before_mib,
        "engine's memory with all waiting, MiB": waiting_mib,
        "the same after a restart, MiB": again_mib,
        "growth per waiting run, KiB": (waiting_mib - before_mib) / runs * 1024,
        "CPU of the idle engine before, % of a core": before_cpu,
        "CPU of the idle engine with all waiting, % of a core": waiting_cpu,
        "the same after a restart, % of a core": again_cpu,
        f"from an answer to the end of its run, p50 of {answered}, ms": median(taken) * 1000,
        "the same after a restart, ms": median(taken_again) * 1000,
        "start until SERVING, empty store, s": empty_s,
        "start until SERVING with the rest waiting, s": again_s,
    }
