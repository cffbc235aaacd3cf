"""What is measured: Retinue as its three processes, durable on SQLite, and the floor, over one fake model."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import ROOT, Process, children_of, cores, started

TOOL_SERVER = str(ROOT / "bench" / "tool_server.py")

SERVICES = {
    "registry": "retinue_registry",
    "host": "retinue_mcp_host",
    "engine": "retinue_engine",
}
"""The module of each of Retinue's processes."""


@dataclass(frozen=True)
class System:
    """One system under load."""

    name: str
    address: str
    """Where it serves RunService."""
    processes: tuple[Process, ...]
    """Its own processes, which are what is compared."""
    around: tuple[Process, ...] = ()
    """Others of it, that have no part in a run."""

    def tool_servers(self) -> list[int]:
        """The tool servers that it has started."""
        return [child for process in self.processes for child in children_of(process.pid)]


@dataclass(frozen=True)
class Suite:
    """All that runs during a measurement."""

    floor: System
    retinue: System
    model: Process
    pinned: bool
    """Whether what is measured has a core of its own."""
    folder: Path = field(repr=False)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tool_server_arguments(core: int | None) -> list[str]:
    """Arguments of Python for a tool server on a core."""
    return [TOOL_SERVER, *([] if core is None else ["--core", str(core)])]


def write_project(folder: Path, model: str, core: int | None) -> None:
    """Write the project of the suite: agents with a tool and one that only talks. JSON is YAML."""
    llms = {
        name: {"model": "fake", "protocol": "openai_chat", "base_url": f"{model}/{name}/v1"}
        for name in ("agent", "paced", "text")
    }
    stdio = {"command": sys.executable, "args": tool_server_arguments(core)}
    project = {
        "llms": llms,
        "mcp_servers": {"echo": {"stdio": stdio}},
        "agents": {
            "agent": {"llm": "agent", "system_prompt": "You are terse.", "mcp_servers": ["echo"]},
            "paced": {"llm": "paced", "system_prompt": "You are terse.", "mcp_servers": ["echo"]},
            "text": {"llm": "text", "system_prompt": "You are terse."},
        },
    }
    (folder / "retinue.yaml").write_text(json.dumps(project, indent=2))


def service_environments(folder: Path) -> dict[str, dict[str, str]]:
    """The environment of each of Retinue's services, on free ports; their files lie in a folder."""
    ports = {name: free_port() for name in SERVICES}
    common = {"RETINUE_LOG_LEVEL": "warning", "RETINUE_STOP_ON_STDIN_EOF": "true"}
    addresses = {
        "RETINUE_REGISTRY_ADDRESS": f"127.0.0.1:{ports['registry']}",
        "RETINUE_MCP_HOST_ADDRESS": f"127.0.0.1:{ports['host']}",
        "RETINUE_ENGINE_ADDRESS": f"127.0.0.1:{ports['engine']}",
        "RETINUE_REGISTRY_METRICS_ADDRESS": "",
        "RETINUE_MCP_HOST_METRICS_ADDRESS": "",
        "RETINUE_ENGINE_METRICS_ADDRESS": "",
    }
    own = {"registry": {"RETINUE_PROJECT": str(folder)}, "host": {}, "engine": {}}
    return {name: {**common, **addresses, "RETINUE_DATA_DIR": str(folder), **own[name]} for name in SERVICES}


@contextmanager
def open_suite() -> Iterator[Suite]:
    """Start the fake model, the floor and Retinue; leaving ends them."""
    pair = cores()
    measured, rest = pair or (None, None)
    if rest is not None:
        os.sched_setaffinity(0, {rest})
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(TemporaryDirectory(prefix="retinue-bench-")))
        model = enter(started("model", ["-m", "bench.fake_model"], core=rest))
        model.read_first_line()
        url = f"http://127.0.0.1:{int(model.first_line)}"
        floor_arguments = ["-m", "bench.floor", "--model", url, "--", *tool_server_arguments(rest)]
        floor = enter(started("floor", floor_arguments, core=measured))
        write_project(folder, url, rest)
        environments = service_environments(folder)
        services = {}
        for name, module in SERVICES.items():
            core = rest if name == "registry" else measured
            services[name] = enter(
                started(name, ["-m", module], core=core, environment=environments[name], cwd=folder)
            )
        for process in (floor, *services.values()):
            process.read_first_line()
        engine = services["engine"]
        yield Suite(
            floor=System("floor", f"127.0.0.1:{int(floor.first_line)}", (floor,)),
            retinue=System(
                "retinue",
                json.loads(engine.first_line)["address"],
                (engine, services["host"]),
                around=(services["registry"],),
            ),
            model=model,
            pinned=pair is not None,
            folder=folder,
        )
