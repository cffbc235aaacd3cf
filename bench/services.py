"""Retinue as its three processes over a fake model; the engine may be stopped and started again."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.health import until_serving
from bench.processes import ROOT, Process, pin, started

TOOL_SERVER = str(ROOT / "bench" / "tool_server.py")

SERVICES = {
    "registry": "retinue_registry",
    "host": "retinue_mcp_host",
    "engine": "retinue_engine",
}
"""The module of each of Retinue's processes."""

_AGENTS: dict[str, dict[str, Any]] = {
    "agent": {"llm": "agent", "mcp_servers": ["echo"]},
    "paced": {"llm": "paced", "mcp_servers": ["echo"]},
    "held": {"llm": "held", "mcp_servers": ["echo"]},
    "asking": {"llm": "agent", "ask_user": True},
    "text": {"llm": "text"},
    "watched": {"llm": "watched"},
}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tool_server_arguments(core: int | None) -> list[str]:
    """Arguments of Python for a tool server on a core."""
    return [TOOL_SERVER, *([] if core is None else ["--core", str(core)])]


def write_project(folder: Path, model: str, core: int | None, transport: str = "direct") -> None:
    """Write the project: agents with a tool, with a question, and that only talk. JSON is YAML."""
    llm = {"model": "fake", "protocol": "openai_chat", "transport": transport}
    llms = {
        name: {**llm, "base_url": f"{model}/{name}/v1"}
        for name in sorted({agent["llm"] for agent in _AGENTS.values()})
    }
    stdio = {"command": sys.executable, "args": tool_server_arguments(core)}
    project = {
        "llms": llms,
        "mcp_servers": {"echo": {"stdio": stdio}},
        "agents": {name: {**agent, "system_prompt": "You are terse."} for name, agent in _AGENTS.items()},
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
    own = {"registry": {"RETINUE_PROJECT": str(folder), "RETINUE_USER_DIR": ""}, "host": {}, "engine": {}}
    return {name: {**common, **addresses, "RETINUE_DATA_DIR": str(folder), **own[name]} for name in SERVICES}


class Engine:
    """An engine that may be stopped and started again at its address."""

    process: Process

    def __init__(
        self,
        folder: Path,
        core: int | None,
        environment: Mapping[str, str],
        module: str = SERVICES["engine"],
    ) -> None:
        self.address = environment["RETINUE_ENGINE_ADDRESS"]
        self._folder = folder
        self._core = core
        self._environment = environment
        self._module = module
        self._stack = ExitStack()

    def start(self) -> None:
        """Start its process; `process.read_first_line` waits for it."""
        self.process = self._stack.enter_context(
            started(
                "engine",
                ["-m", self._module],
                core=self._core,
                environment=self._environment,
                cwd=self._folder,
            )
        )

    async def restart(self) -> float:
        """Stop it if it runs, start it, and wait until it serves; seconds from its start."""
        self.close()
        begin = time.perf_counter()
        self.start()
        await until_serving(self.process, self.address)
        return time.perf_counter() - begin

    def close(self) -> None:
        """Stop it."""
        self._stack.close()


@dataclass(frozen=True)
class Retinue:
    """Retinue's processes, and the model that its agents ask."""

    folder: Path
    model: Process
    model_url: str
    registry: Process
    host: Process
    engine: Engine
    environments: Mapping[str, Mapping[str, str]] = field(repr=False)
    measured: int | None
    """The core of engine and host; None where there is none of their own."""
    rest: int | None
    """The core of all else."""


@contextmanager
def open_retinue(
    *,
    transport: str = "direct",
    engine_module: str = SERVICES["engine"],
    engine_environment: Mapping[str, str] | None = None,
) -> Iterator[Retinue]:
    """Start the fake model and Retinue, durable on SQLite where nothing else is said; leaving ends them."""
    measured, rest = pin()
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = Path(enter(TemporaryDirectory(prefix="retinue-bench-")))
        model = enter(started("model", ["-m", "bench.fake_model"], core=rest))
        model.read_first_line()
        url = f"http://127.0.0.1:{int(model.first_line)}"
        write_project(folder, url, rest, transport)
        environments = service_environments(folder)
        environments["engine"].update(engine_environment or {})
        registry, host = [
            enter(
                started(name, ["-m", SERVICES[name]], core=core, environment=environments[name], cwd=folder)
            )
            for name, core in (("registry", rest), ("host", measured))
        ]
        engine = enter(contextlib.closing(Engine(folder, measured, environments["engine"], engine_module)))
        engine.start()
        for process in (registry, host, engine.process):
            process.read_first_line()
        yield Retinue(folder, model, url, registry, host, engine, environments, measured, rest)
