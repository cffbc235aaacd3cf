"""`python -m bench`: Retinue beside the bare gRPC floor, in one run."""

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import uvloop

from bench import report
from bench.host_call import measure_host
from bench.processes import BenchError, cores
from bench.registry_scale import measure_registry
from bench.sections import loaded, memory, quiet, settle
from bench.startup import measure_startup
from bench.suite import open_suite

SECTIONS = ("startup", "agent", "paced", "text", "host", "registry")
_IN_FLIGHT = {"agent": [1, 32, 128], "paced": [1, 32], "text": [1, 32]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds: a look, not a measurement")
    parser.add_argument("--only", metavar="SECTIONS", help=f"some of {','.join(SECTIONS)}")
    parser.add_argument("--json", metavar="PATH", type=Path, default=report.OUT / "bench.json")
    options = parser.parse_args()
    options.only = options.only.split(",") if options.only else list(SECTIONS)
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    return options


async def _measure(options: argparse.Namespace) -> dict[str, Any]:
    quick = options.quick
    found: dict[str, Any] = {}
    result = {
        "environment": report.environment(pinned=cores() is not None, quick=quick),
        "sections": found,
    }
    if "startup" in options.only:
        print("startup ...", file=sys.stderr)
        found["startup"] = await measure_startup(1 if quick else 3)
    loads = [name for name in _IN_FLIGHT if name in options.only]
    if loads:
        rounds, seconds = (1, 0.8) if quick else (5, 1.5)
        with open_suite() as suite:
            if not quick:
                await quiet()
            await settle(suite)
            states = {"idle": memory(suite)}
            # Nothing of the load's own collections falls into a round.
            gc.freeze()
            for name in loads:
                print(f"{name} ...", file=sys.stderr)
                found[name] = await loaded(suite, name, _IN_FLIGHT[name], rounds=rounds, seconds=seconds)
                states[f"after {name}"] = memory(suite)
            found["memory"] = states
    if "host" in options.only:
        print("host ...", file=sys.stderr)
        found["host"] = await measure_host(rounds=1 if quick else 5, seconds=1.0)
    if "registry" in options.only:
        print("registry ...", file=sys.stderr)
        found["registry"] = await measure_registry(times=200 if quick else 1000)
    return result


def main() -> int:
    """Measure, print the table, write the JSON; the exit status."""
    options = _arguments()
    try:
        result = uvloop.run(_measure(options))
    except BenchError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    report.write(result, options.json)
    print(report.table(result))
    print(f"JSON: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
