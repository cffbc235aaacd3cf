"""The report: a table for people and JSON for machines."""

import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.tables import SECTIONS

OUT = Path(__file__).resolve().parent / "out"

_LIBRARIES = ("grpcio", "protobuf", "aiohttp", "mcp", "orjson", "uvloop")


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
        lines.extend(SECTIONS[name](cells))
    return "\n".join(lines)


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
