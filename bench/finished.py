"""An engine with a million finished runs in its store beside one with an empty store."""

import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from bench.finished_store import FinishedStore, open_finished
from bench.load import Figures, Load, Tally, run_once
from bench.plans import scans
from bench.processes import rss_mib
from bench.sections import Cells, medians, ratios
from bench.services import Engine, Retinue, free_port, open_retinue
from bench.suite import System
from bench.waiting import People
from retinue.engine.v1 import run_pb2, service_pb2, service_pb2_grpc

IN_FLIGHT = 32
_ONE_ASKS_OF = 10
_TIMEOUT_S = 30.0

_Names = list[tuple[str, str]]
"""Runs and their sessions."""


async def measure_finished(folder: Path, count: int, *, rounds: int, seconds: float, times: int) -> Cells:
    """Runs and reads with so many finished runs in the store, kept in a folder, and with none, by turns."""
    finished = await open_finished(folder, count, _make_runs)
    statements, scanning = await scans(finished.path)
    with ExitStack() as stack:
        retinue = stack.enter_context(open_retinue())
        environment = {
            **retinue.environments["engine"],
            "RETINUE_STORE": f"sqlite:{finished.path}",
            "RETINUE_ENGINE_ADDRESS": f"127.0.0.1:{free_port()}",
        }
        full = stack.enter_context(closing(Engine(retinue.folder, retinue.measured, environment)))
        engines = {"empty": retinue.engine, "full": full}
        retinue.engine.close()
        starts = {
            name: {"start until SERVING, s": await engine.restart()} for name, engine in engines.items()
        }
        loads = await _load(retinue, engines, rounds, seconds)
        reads = {
            name: await _read(engine.address, _some(finished, times) if engine is full else None, times)
            for name, engine in engines.items()
        }
        memory = {name: {"memory, MiB": rss_mib(engine.process.pid)} for name, engine in engines.items()}
    figures = {
        name: {**medians(loads[name]), **reads[name], **memory[name], **starts[name]} for name in engines
    }
    return {
        "count": count,
        "in_flight": IN_FLIGHT,
        **figures,
        "alone": [*reads["full"], *memory["full"], *starts["full"]],
        "ratio": {
            **ratios([{**reads["full"], **memory["full"], **starts["full"]}], [figures["empty"]]),
            **ratios(loads["full"], loads["empty"]),
        },
        "statements": statements,
        "scans": scanning,
    }


async def _make_runs(path: Path) -> Sequence[str]:
    """Make real runs in a file: one that asked a person and was answered to nine that called a tool."""
    with open_retinue(engine_environment={"RETINUE_STORE": f"sqlite:{path}"}) as retinue:
        async with grpc.aio.insecure_channel(retinue.engine.address) as channel:
            people, runs = People(channel), service_pb2_grpc.RunServiceStub(channel)
            await people.start(1)
            await people.answer(1)
            await run_once(runs, "agent", Tally())
            listed = (await runs.ListRuns(service_pb2.ListRunsRequest(), timeout=_TIMEOUT_S)).runs
    ids = {run.target.name: run.run_id for run in listed}
    return [ids["agent"]] * (_ONE_ASKS_OF - 1) + [ids["asking"]]


async def _load(
    retinue: Retinue, engines: Mapping[str, Engine], rounds: int, seconds: float
) -> dict[str, list[Figures]]:
    load = Load(retinue.model)
    systems = [
        System(name, engine.address, (engine.process, retinue.host)) for name, engine in engines.items()
    ]
    found: dict[str, list[Figures]] = {name: [] for name in engines}
    for number in range(rounds):
        for system in systems if number % 2 == 0 else reversed(systems):
            found[system.name].append(await load.round(system, "agent", IN_FLIGHT, seconds))
    return found


def _some(finished: FinishedStore, times: int) -> _Names:
    numbers = [random.randrange(finished.count) for _ in range(times)]
    return [(finished.run_id(number), finished.session_id(number)) for number in numbers]


async def _read(address: str, names: _Names | None, times: int) -> Figures:
    """Medians in milliseconds; about these runs, or those that came last."""
    async with grpc.aio.insecure_channel(address) as channel:
        runs = service_pb2_grpc.RunServiceStub(channel)
        sessions = service_pb2_grpc.SessionServiceStub(channel)
        inputs = service_pb2_grpc.InputServiceStub(channel)
        if names is None:
            last = await runs.ListRuns(service_pb2.ListRunsRequest(), timeout=_TIMEOUT_S)
            names = [(run.run_id, run.session_id) for run in last.runs]
        failed = service_pb2.ListRunsRequest(states=[run_pb2.RUN_STATE_FAILED])
        reads: dict[str, Callable[[str, str], Awaitable[Any]]] = {
            "GetRun": lambda run, _: runs.GetRun(service_pb2.GetRunRequest(run_id=run)),
            "ListRuns": lambda *_: runs.ListRuns(service_pb2.ListRunsRequest()),
            "ListRuns of a session": lambda _, session: runs.ListRuns(
                service_pb2.ListRunsRequest(session_id=session)
            ),
            "ListRuns, failed ones (none)": lambda *_: runs.ListRuns(failed),
            "ListSessions": lambda *_: sessions.ListSessions(service_pb2.ListSessionsRequest()),
            "ListInputs, pending (none)": lambda *_: inputs.ListInputs(service_pb2.ListInputsRequest()),
            "ListInputs of a run": lambda run, _: inputs.ListInputs(
                service_pb2.ListInputsRequest(run_id=run, include_closed=True)
            ),
        }
        return {f"{name}, p50, ms": await _median_ms(read, names, times) for name, read in reads.items()}


async def _median_ms(read: Callable[[str, str], Awaitable[Any]], names: _Names, times: int) -> float:
    taken = []
    for number in range(times):
        start = time.perf_counter()
        await read(*names[number % len(names)])
        taken.append(time.perf_counter() - start)
    return median(taken) * 1000
