"""The report: a table for people and JSON for machines."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "out"

_COLUMNS = "{:<42}{:>12}{:>12}{:>9}"
_CROWDED = 0.8
"""Part of its core that a system under full load gets at least where nothing else runs."""
_LIBRARIES = ("grpcio", "protobuf", "aiohttp", "mcp", "orjson", "uvloop")

_LATENCIES = [
    ("p50", "p50_ms", "{:.2f} ms"),
    ("p99", "p99_ms", "{:.2f} ms"),
    ("StartRun to first event, p50", "first_event_p50_ms", "{:.2f} ms"),
    ("StartRun to first event, p99", "first_event_p99_ms", "{:.2f} ms"),
]
_CPU = [
    ("runs per CPU second", "runs_per_cpu_s", "{:.0f}"),
    ("CPU per run", "cpu_ms_per_run", "{:.2f} ms"),
]
_ROWS = {
    "agent": [("runs/s", "runs_per_s", "{:.0f}"), *_LATENCIES, *_CPU],
    "text": [
        ("text events/s (model's chunks)", "chunks_per_s", "{:,.0f}"),
        ("the same per CPU second", "chunks_per_cpu_s", "{:,.0f}"),
        ("delta events/s", "deltas_per_s", "{:,.0f}"),
        *_LATENCIES,
        *_CPU,
    ],
}
_ROWS["paced"] = _ROWS["agent"]
_TITLES = {
    "agent": "agent runs: two model calls, one MCP tool call over stdio",
    "paced": "agent runs that do not fill a core: the model thinks 100 ms each time",
    "text": "text: 200 chunks an answer, counted as the model's chunks, delivered as coalesced deltas",
}


def _row(name: str, floor: str, retinue: str, ratio: float | None) -> str:
    return _COLUMNS.format(name, floor, retinue, "" if ratio is None else f"{ratio:.2f}")


def _loaded(section: str, cells: dict[str, Any]) -> Iterable[str]:
    yield _TITLES[section]
    for in_flight, cell in cells.items():
        yield _COLUMNS.format(f"  {in_flight} in flight", "floor", "retinue", "ratio")
        floor, retinue, ratio = cell["floor"], cell["retinue"], cell["ratio"]
        for name, key, form in _ROWS[section]:
            yield _row(f"    {name}", form.format(floor[key]), form.format(retinue[key]), ratio[key])
        for key in sorted({*floor, *retinue}):
            if key.startswith("cpu_ms_per_run:"):
                shown = [f"{each[key]:.2f} ms" if key in each else "" for each in (floor, retinue)]
                yield _row(f"      of it {key.partition(':')[2]}", *shown, None)
        busy = [f"{each['busy']:.0%}/{each['busy_load']:.0%}" for each in (floor, retinue)]
        yield _row("    cores busy: measured/load", *busy, None)
        if section != "paced" and int(in_flight) > 1 and min(floor["busy"], retinue["busy"]) < _CROWDED:
            yield "    OTHERS USED THE CORES: read the figures per CPU second, not those per second"
    yield ""


def _startup(cells: dict[str, Any]) -> Iterable[str]:
    serving, imports = cells["serving_s"], cells["import_s"]
    yield _COLUMNS.format("start until health says SERVING", "floor", "retinue", "ratio")
    for name, seconds in serving.items():
        if name != "floor":
            ratio = seconds / serving["floor"]
            yield _row(f"    {name}", f"{serving['floor']:.2f} s", f"{seconds:.2f} s", ratio)
    bare, client = imports["grpc.aio"], imports["retinue.client"]
    yield _row(
        "    import of the client (floor: grpc.aio)", f"{bare:.2f} s", f"{client:.2f} s", client / bare
    )
    yield ""


def _memory(cells: dict[str, Any]) -> Iterable[str]:
    yield "resident memory, MiB"
    moments = list(cells)
    yield "    {:<20}".format("") + "".join(f"{moment:>24}" for moment in moments)
    for name in cells[moments[0]]:
        yield f"    {name:<20}" + "".join(f"{cells[moment][name]:>24.0f}" for moment in moments)
    yield ""


def _plain(title: str) -> Callable[[dict[str, Any]], Iterable[str]]:
    def lines(cells: dict[str, Any]) -> Iterable[str]:
        yield title
        for name, value in cells.items():
            yield f"    {name:<58}{value:>17,.3f}"
        yield ""

    return lines


_SECTIONS: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "startup": _startup,
    "agent": lambda cells: _loaded("agent", cells),
    "paced": lambda cells: _loaded("paced", cells),
    "text": lambda cells: _loaded("text", cells),
    "memory": _memory,
    "host": _plain("MCP host: a tool call through it, and the SDK alone on a kept connection"),
    "registry": _plain("registry of 10,000 components"),
}


def environment(*, pinned: bool, quick: bool) -> dict[str, Any]:
    """Where and when it was measured."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average_before": os.getloadavg()[0],
        "pinned": pinned,
        "quick": quick,
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
    }


def table(report: dict[str, Any]) -> str:
    """The report as text."""
    where = report["environment"]
    pinned = (
        "what is measured (engine and host; the floor) on one core, all else on another"
        if where["pinned"]
        else "NOT PINNED: fewer than two cores, or no way to pin; the figures mix load and service"
    )
    machine = (
        f"Python {where['python']}, {where['cores']} cores, load before {where['load_average_before']:.1f}"
    )
    lines = [
        f"Retinue beside the bare gRPC floor; {where['time']}, {machine}",
        pinned,
        "medians of rounds, the two by turns; a ratio is Retinue's figure over the floor's in the same round",
        "",
    ]
    for name, cells in report["sections"].items():
        lines.extend(_SECTIONS[name](cells))
    return "\n".join(lines)


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
