"""Peers beside Retinue and the floor: each installed into an environment of its own, under load by turns."""

import asyncio
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.load import Figures, Load
from bench.processes import BenchError, Process, cores, started
from bench.sections import Cells, medians, ratios, settle
from bench.services import tool_server_arguments
from bench.suite import Suite, open_suite

IN_FLIGHT = 32
_INSTALL_S = 600.0
_ANSWER_S = 60.0
_WARM_S = 0.5
_ROWS = ("runs_per_s", "p50_ms", "cpu_ms_per_run")
_VERSION = "import sys; from importlib.metadata import version; print(version(sys.argv[1]))"


@dataclass(frozen=True)
class Peer:
    """A library that runs agents."""

    module: str
    """Of the script in bench/peers."""
    packages: tuple[str, ...]
    """What it needs; the first is the library itself."""


PEERS = {
    "openai-agents": Peer("openai_agents", ("openai-agents",)),
    "pydantic-ai": Peer("pydantic_ai", ("pydantic-ai-slim[openai,mcp]",)),
    "langgraph": Peer("langgraph", ("langgraph", "langchain", "langchain-openai", "langchain-mcp-adapters")),
    "agent-framework": Peer(
        "agent_framework", ("agent-framework-core", "agent-framework-openai", "mcp>=2.2", "tenacity")
    ),
}


def _install(folder: Path, peer: Peer) -> tuple[Path, str]:
    """The Python of a peer's environment, made where it is not there yet, and the library's version.

    Raises BenchError where it does not install.
    """
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join((*peer.packages, "uvloop"))
    if not done.exists() or done.read_text() != wanted:
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "install", *wanted.split("\n")])
        done.write_text(wanted)
    return python, _run([str(python), "-c", _VERSION, peer.packages[0].partition("[")[0]])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"not installed within {_INSTALL_S:.0f} s") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise BenchError(f"not installed: {said[-1]}")
    return done.stdout.strip()


async def measure_peers(folder: Path, *, rounds: int, seconds: float) -> Cells:
    """Figures of each at 32 runs in flight, by turns; of one that does not work, why."""
    failed: dict[str, str] = {}
    installed: dict[str, tuple[Path, str]] = {}
    for name, peer in PEERS.items():
        print(f"    installing {name} ...", file=sys.stderr)
        try:
            installed[name] = await asyncio.to_thread(_install, folder / name, peer)
        except BenchError as error:
            failed[name] = str(error)
    with open_suite() as suite, ExitStack() as stack:
        await settle(suite, "agent")
        processes: dict[str, Process] = {}
        for name, (python, _) in installed.items():
            try:
                processes[name] = await asyncio.to_thread(_start, stack, suite, name, python)
            except BenchError as error:
                failed[name] = str(error)
        found = await _rounds(suite, processes, failed, rounds, seconds)
    figures = {name: medians(each) for name, each in found.items() if each and name not in failed}
    to_each = {name: ratios(found["retinue"], found[name])["runs_per_s"] for name in figures}
    versions = {name: version for name, (_, version) in installed.items()}
    return {
        "in_flight": IN_FLIGHT,
        "systems": figures,
        "ratio": to_each,
        "failed": failed,
        "versions": versions,
    }


def _start(stack: ExitStack, suite: Suite, name: str, python: Path) -> Process:
    measured, rest = cores() or (None, None)
    tool = [sys.executable, *tool_server_arguments(rest)]
    arguments = ["-m", f"bench.peers.{PEERS[name].module}", f"{suite.model_url}/agent/v1", "--", *tool]
    process = stack.enter_context(started(name, arguments, core=measured, python=str(python)))
    process.read_first_line()
    process.ask(f"{IN_FLIGHT} {_WARM_S}", _ANSWER_S)
    return process


async def _rounds(
    suite: Suite, processes: Mapping[str, Process], failed: dict[str, str], rounds: int, seconds: float
) -> dict[str, list[Figures]]:
    load = Load(suite.model)
    found: dict[str, list[Figures]] = {name: [] for name in ("floor", "retinue", *processes)}
    for number in range(rounds):
        # Each is first by turns.
        for name in [*list(found)[number % len(found) :], *list(found)[: number % len(found)]]:
            if name in failed:
                continue
            try:
                figures: dict[str, Any] = (
                    await asyncio.to_thread(processes[name].ask, f"{IN_FLIGHT} {seconds}", _ANSWER_S)
                    if name in processes
                    else await load.round(
                        suite.floor if name == "floor" else suite.retinue, "agent", IN_FLIGHT, seconds
                    )
                )
            except BenchError as error:
                if name not in processes:
                    raise
                failed[name] = str(error)
                continue
            found[name].append({row: figures[row] for row in _ROWS})
    return found
