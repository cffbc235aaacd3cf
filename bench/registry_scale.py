"""The registry with 10,000 components: how long it loads, and what a look-up and a resolve cost."""

import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import structlog

from bench.processes import BenchError, pin, rss_mib, started
from bench.services import SERVICES, service_environments
from retinue.registry.v1 import component_pb2, service_pb2, service_pb2_grpc
from retinue_registry.component import Key
from retinue_registry.convert import ProtoCodec
from retinue_registry.registry import open_registry
from retinue_registry.store_sqlite import open_sqlite_store

COMPONENTS = 10_000
REFERENCES = 20
"""What the resolved agent needs: its llm and its servers."""

_FILES = 20


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
        open_sqlite_store(folder / "in-process") as store,
        open_registry(store, ProtoCodec(), heartbeat_s=20, queue_size=1000) as registry,
    ):
        await registry.loading.load(folder / "retinue.yaml")
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
        "from start to ready, first import, s": first["ready_s"],
        "from start to ready, nothing changed, s": again["ready_s"],
        "get in process, p50, microseconds": in_process,
        "get over gRPC, p50, ms": again["get_ms"],
        f"resolve with {REFERENCES} references over gRPC, p50, ms": again["resolve_ms"],
        "memory, MiB": again["memory_mib"],
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
            return {
                "ready_s": ready_s,
                "get_ms": await _median_ms(stub.GetComponent, get, times),
                "resolve_ms": await _median_ms(stub.ResolveComponent, resolve, times),
                "memory_mib": rss_mib(registry.pid),
            }


async def _median_ms(rpc: Any, request: Any, times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        await rpc(request)
        taken.append(time.perf_counter() - start)
    return median(taken) * 1000
