"""The registry with 10,000 components: loading, a look-up, a resolve, and 1,000 watchers of a change."""

import asyncio
import json
import logging
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import structlog

from bench.processes import BenchError, pin, rss_mib, started
from bench.services import SERVICES, service_environments
from retinue.registry.v1 import component_pb2, llm_pb2, service_pb2, service_pb2_grpc
from retinue_registry.component import Key
from retinue_registry.convert import ProtoCodec
from retinue_registry.files.anchors import Roots
from retinue_registry.registry import open_registry
from retinue_registry.stores.sqlite.store import open_sqlite_store

COMPONENTS = 10_000
REFERENCES = 20
"""What the resolved agent needs: its llm and its servers."""

WATCHERS = 1_000

_FILES = 20
_CHANNELS = 10
_WATCH_S = 60.0


def write_components(folder: Path) -> None:
    """Write a project of llms, servers and agents in many files, and `big`, which refers to 20 of them."""
    servers = [f"server-{number}" for number in range(COMPONENTS // 2 - 1)]
    agents = [f"agent-{number}" for number in range(COMPONENTS - len(servers) - 2)]
    big = {"llm": "model", "mcp_servers": servers[: REFERENCES - 1]}
    anchor = {
        "include": ["part-*.yaml"],
        "llms": {"model": {"model": "m", "protocol": "openai_chat", "base_url": "http://127.0.0.1:1/v1"}},
        "agents": {"big": big},
    }
    (folder / "retinue.yaml").write_text(json.dumps(anchor))
    for part in range(_FILES):
        stdio = {"stdio": {"command": "python", "args": ["-m", "server"]}}
        content = {
            "mcp_servers": dict.fromkeys(servers[part::_FILES], stdio),
            "agents": {
                name: {"llm": "model", "system_prompt": f"You are {name}."} for name in agents[part::_FILES]
            },
        }
        # One to a line, as people write them: the line numbers are part of the work.
        (folder / f"part-{part:02}.yaml").write_text(json.dumps(content, indent=1))


async def _get_in_process(folder: Path, times: int) -> float:
    """Microseconds of one look-up inside the registry, without gRPC: the median."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    async with (
        open_sqlite_store(folder / "in-process" / "registry.db") as store,
        open_registry(store, ProtoCodec(), heartbeat_s=20, queue_size=1000) as registry,
    ):
        await registry.loading.load(Roots(folder / "retinue.yaml"))
        taken = []
        for number in range(times):
            start = time.perf_counter()
            await registry.get(Key("default", "agent", f"agent-{number}"))
            taken.append(time.perf_counter() - start)
    return median(taken) * 1e6


async def measure_registry(*, times: int) -> dict[str, float]:
    """Start a registry on a project of 10,000 components, twice, and ask it."""
    measured, _ = pin()
    with TemporaryDirectory(prefix="retinue-bench-") as made:
        folder = Path(made)
        write_components(folder)
        first, again = [await _start_and_ask(folder, measured, times) for _ in range(2)]
        in_process = await _get_in_process(folder, times)
    return {
        "start to ready, first import, s (target: 5)": first["ready_s"],
        "start to ready, nothing changed, s": again["ready_s"],
        "get in process, p50, microseconds (target: 1,000)": in_process,
        "get over gRPC, p50, ms": again["get_ms"],
        f"resolve with {REFERENCES} references over gRPC, p50, ms (target: 3)": again["resolve_ms"],
        "memory, MiB (target: 286, that is 300 MB)": again["memory_mib"],
        "watchers, each saw a change": again["watchers"],
        "the change until the last of them had it, ms": again["seen_ms"],
        "memory with all watchers, MiB (target: 286)": again["watched_mib"],
    }


async def _start_and_ask(folder: Path, core: int | None, times: int) -> dict[str, float]:
    with ExitStack() as stack:
        start = time.perf_counter()
        registry = stack.enter_context(
            started(
                "registry",
                ["-m", SERVICES["registry"]],
                core=core,
                environment=service_environments(folder)["registry"],
                cwd=folder,
            )
        )
        registry.read_first_line()
        ready_s = time.perf_counter() - start
        async with grpc.aio.insecure_channel(json.loads(registry.first_line)["address"]) as channel:
            stub = service_pb2_grpc.RegistryServiceStub(channel)
            agent = component_pb2.COMPONENT_KIND_AGENT
            small, big = [component_pb2.ComponentRef(kind=agent, name=name) for name in ("agent-7", "big")]
            get = service_pb2.GetComponentRequest(component=small)
            resolve = service_pb2.ResolveComponentRequest(component=big)
            answer = await stub.ResolveComponent(resolve)
            if len(answer.dependencies) != REFERENCES:
                raise BenchError(f"big has {len(answer.dependencies)} dependencies instead of {REFERENCES}")
            found = {
                "ready_s": ready_s,
                "get_ms": await _median_ms(stub.GetComponent, get, times),
                "resolve_ms": await _median_ms(stub.ResolveComponent, resolve, times),
                "memory_mib": rss_mib(registry.pid),
            }
            seen_ms, watched_mib = await _watched(json.loads(registry.first_line)["address"], registry.pid)
            return found | {"watchers": WATCHERS, "seen_ms": seen_ms, "watched_mib": watched_mib}


async def _watched(address: str, pid: int) -> tuple[float, float]:
    """How long a change takes to reach all watchers, in ms; the registry's memory with these, in MiB."""
    async with AsyncExitStack() as stack, asyncio.timeout(_WATCH_S):
        stubs = []
        for number in range(_CHANNELS):
            # A connection each: channels that look the same would share one.
            channel = grpc.aio.insecure_channel(address, options=[("bench.number", number)])
            stubs.append(service_pb2_grpc.RegistryServiceStub(await stack.enter_async_context(channel)))
        head = (await stubs[0].ListComponents(service_pb2.ListComponentsRequest(page_size=1))).revision
        request = service_pb2.WatchComponentsRequest(after_revision=head)
        watches = [stubs[number % _CHANNELS].WatchComponents(request) for number in range(WATCHERS)]
        for watch in watches:
            await watch.read()
        llm = component_pb2.Component(
            kind=component_pb2.COMPONENT_KIND_LLM, name="changed", llm=llm_pb2.LlmSpec(model=f"m{head}")
        )
        start = time.perf_counter()
        seen = [asyncio.create_task(_see(watch)) for watch in watches]
        await stubs[0].ApplyComponents(service_pb2.ApplyComponentsRequest(components=[llm]))
        changes = await asyncio.gather(*seen)
        taken_s = time.perf_counter() - start
        if any(each != [head + 1] for each in changes):
            raise BenchError(f"a watcher saw something else than the one change, {head + 1}")
        memory = rss_mib(pid)
        for watch in watches:
            watch.cancel()
        return taken_s * 1000, memory


async def _see(watch: Any) -> list[int]:
    while True:
        response = await watch.read()
        if response.changes:
            return [change.revision for change in response.changes]


async def _median_ms(rpc: Any, request: Any, times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await rpc(request)
        taken.append(time.perf_counter() - start)
    return median(taken) * 1000
