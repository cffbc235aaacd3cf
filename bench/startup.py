"""How long services take from start until their health says SERVING, and the client to be imported."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from bench.health import until_serving
from bench.processes import cores, started
from bench.services import SERVICES, free_port, service_environments, tool_server_arguments, write_project

_ADDRESSES = {
    "registry": "RETINUE_REGISTRY_ADDRESS",
    "host": "RETINUE_MCP_HOST_ADDRESS",
    "engine": "RETINUE_ENGINE_ADDRESS",
}
_IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


async def _start(names: Sequence[str]) -> float:
    """Seconds until all of these services serve, started at once in a fresh project; with every core."""
    with TemporaryDirectory(prefix="retinue-bench-") as made, ExitStack() as stack:
        folder = Path(made)
        write_project(folder, f"http://127.0.0.1:{free_port()}", None)
        environments = service_environments(folder)
        start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for name in names:
                process = stack.enter_context(
                    started(
                        name,
                        ["-m", SERVICES[name]],
                        core=None,
                        environment=environments[name],
                        cwd=folder,
                    )
                )
                group.create_task(until_serving(process, environments[name][_ADDRESSES[name]]))
        return time.perf_counter() - start


def _start_floor() -> float:
    """Seconds until the floor has a connected tool server and listens."""
    start = time.perf_counter()
    arguments = ["-m", "bench.floor", "--model", "http://127.0.0.1:1", "--", *tool_server_arguments(None)]
    with started("floor", arguments, core=None) as process:
        process.read_first_line()
        return time.perf_counter() - start


def _import_s(module: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(module)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


async def measure_startup(rounds: int) -> dict[str, Any]:
    """Medians in seconds. Run it before anything is pinned."""
    names = {name: [name] for name in SERVICES} | {"all three at once": list(SERVICES)}
    found: dict[str, list[float]] = {"floor": [], **{name: [] for name in names}}
    imports: dict[str, list[float]] = {"retinue.client": [], "grpc.aio": []}
    for _ in range(rounds):
        found["floor"].append(_start_floor())
        for name, which in names.items():
            found[name].append(await _start(which))
        for module, times in imports.items():
            times.append(_import_s(module))
    return {
        "serving_s": {name: median(times) for name, times in found.items()},
        "import_s": {module: median(times) for module, times in imports.items()},
        "cores": "all" if cores() else "one",
    }
