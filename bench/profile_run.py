"""Where the time of one agent run goes in the engine: self time by module, under cProfile."""

import asyncio
import re
from typing import Any

import grpc

from bench.load import run_for
from bench.processes import Process
from bench.services import open_retinue
from retinue.engine.v1 import service_pb2_grpc

IN_FLIGHT = 32
_ANSWER_S = 30.0
_TOP = 25

_GROUPS = (
    ("journal", ("retinue_engine/journal",)),
    ("store: group commit, SQLite's reads", ("retinue_engine/store", "/group_writer", "sqlite3", "Reader.")),
    ("llm: the direct transport", ("retinue_engine/llm/",)),
    ("aiohttp", ("/aiohttp/", "/yarl/", "/multidict/", "aiohttp.")),
    ("host stream: tool calls", ("retinue_engine/host_", "retinue_engine/tools")),
    ("agent loop", ("retinue_engine/agent/", "retinue_engine/prompt", "retinue_engine/working")),
    ("acceptance, dispatcher, supervisor", ("/acceptance", "/dispatcher", "/supervisor", "/closures")),
    ("servicers, feed", ("retinue_engine/servicer", "retinue_engine/feed", "retinue_engine/watching")),
    ("engine: the rest", ("retinue_engine/",)),
    (
        "kit: interceptor, metrics, tracing",
        ("retinue_kit/", "prometheus_client", "opentelemetry", "structlog"),
    ),
    ("protobuf", ("google/protobuf", "google._upb", "_pb2.py")),
    ("grpc: its Python and what it calls in C", ("/grpc/", "grpc_health", "cygrpc")),
    ("json: orjson", ("orjson",)),
    ("asyncio", ("/asyncio/", "_asyncio", "asyncio.", "uvloop")),
    ("Python's library, dataclasses", ("/lib/python3", "<string>")),
)
"""What a function's file or name holds, in the order in which it is looked at.

One in C that fits none belongs to who called it.
"""
_LONG = re.compile(r"^.*/(site-packages|python3[.0-9]+|services|clients/python)/| at 0x[0-9a-f]+")
"""What of a function's name says little."""
_OTHER = "other"
_LOOP = "no Python frame: uvloop, gRPC's core, sockets"
_MAIN = "MainThread"


def _group(name: str, caller: str) -> str:
    for text in (name, caller):
        for group, parts in _GROUPS:
            if any(part in text for part in parts):
                return group
    return _OTHER


def _short(function: str) -> str:
    return _LONG.sub("", function)


async def measure_profile(*, seconds: float) -> dict[str, Any]:
    """A round without the profiler says what a run costs, one with it what of that is spent where."""
    with open_retinue(engine_module="bench.profiled_engine") as retinue:
        engine = retinue.engine.process
        async with grpc.aio.insecure_channel(retinue.engine.address) as channel:
            stub = service_pb2_grpc.RunServiceStub(channel)
            await run_for(stub, "agent", IN_FLIGHT, seconds / 2)
            before = await _ask(engine, "threads")
            runs = len((await run_for(stub, "agent", IN_FLIGHT, seconds)).run_s)
            after = await _ask(engine, "threads")
            await _ask(engine, "begin")
            profiled_runs = len((await run_for(stub, "agent", IN_FLIGHT, seconds)).run_s)
            profile = await _ask(engine, "end")
    threads_ms = {name: (after[name] - before.get(name, 0.0)) / runs * 1000 for name in after}
    return {
        "runs": profiled_runs,
        "loop_ms_per_run": threads_ms[_MAIN],
        "profiled_ms_per_run": profile["thread_s"] / profiled_runs * 1000,
        "threads_ms_per_run": dict(sorted(threads_ms.items(), key=lambda item: -item[1])),
        **_spent(profile, profiled_runs, threads_ms[_MAIN]),
    }


async def _ask(engine: Process, command: str) -> dict[str, Any]:
    return await asyncio.to_thread(engine.ask, command, _ANSWER_S)


def _spent(profile: dict[str, Any], runs: int, loop_ms: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a run by group and by function, without the profiler's own time."""
    whole_s, functions = profile["thread_s"], profile["functions"]
    # What the profiler adds to each call: the same for all, as far as is known.
    extra_s = max(0.0, whole_s - loop_ms / 1000 * runs) / sum(calls for _, _, calls, _ in functions)
    groups = {_LOOP: whole_s - sum(self_s for *_, self_s in functions)}
    found: dict[str, float] = {}
    for name, caller, calls, self_s in functions:
        own_s = max(0.0, self_s - calls * extra_s)
        group = _group(name, caller)
        groups[group] = groups.get(group, 0.0) + own_s
        found[name] = found.get(name, 0.0) + own_s
    scale = loop_ms / sum(groups.values())
    return {
        "groups_ms_per_run": _largest(groups, scale),
        "functions_ms_per_run": _largest({_short(name): own_s for name, own_s in found.items()}, scale, _TOP),
    }


def _largest(seconds: dict[str, float], scale: float, count: int | None = None) -> dict[str, float]:
    order = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: spent * scale for name, spent in order[:count]}
