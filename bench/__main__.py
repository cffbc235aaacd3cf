"""`python -m bench`: Retinue beside the bare gRPC floor, in one run."""

import argparse
import gc
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench import report
from bench.finished import measure_finished
from bench.host_call import measure_host
from bench.many import measure_many
from bench.peer_load import measure_peers
from bench.processes import BenchError, cores
from bench.profile_run import measure_profile
from bench.registry_scale import measure_registry
from bench.sections import loaded, measure_litellm, measure_mongodb, memory, quiet, settle
from bench.startup import measure_startup
from bench.suite import open_suite
from bench.waiting import measure_waiting
from bench.watchers import measure_watchers
from bench.workflows import measure_workflows

_IN_FLIGHT = {"agent": [1, 32, 128], "paced": [1, 32], "text": [1, 32]}
_ON_REQUEST = ("peers", "profile")
"""Sections that are measured only where they are named."""
_OPEN_FILES = 16_384


def _sections(*, quick: bool) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Each section that opens what it needs by itself."""
    rounds, seconds = _rounds(quick=quick)
    return {
        "litellm": lambda: measure_litellm(rounds=rounds, seconds=seconds),
        "mongodb": lambda: measure_mongodb(rounds=rounds, seconds=seconds),
        "many": measure_many,
        "waiting": lambda: measure_waiting(
            runs=500 if quick else 10_000, answered=20 if quick else 100, idle_s=1.0 if quick else 5.0
        ),
        "watchers": lambda: measure_watchers(watchers=100 if quick else 1_000, rounds=1 if quick else 3),
        "finished": lambda: measure_finished(
            report.OUT,
            20_000 if quick else 1_000_000,
            rounds=rounds,
            seconds=seconds,
            times=50 if quick else 500,
        ),
        "host": lambda: measure_host(rounds=rounds, seconds=1.0),
        "workflows": lambda: measure_workflows(rounds=1 if quick else 3),
        "registry": lambda: measure_registry(times=200 if quick else 1000),
        "peers": lambda: measure_peers(report.OUT / "peers", rounds=rounds, seconds=seconds),
        "profile": lambda: measure_profile(seconds=1.5 if quick else 5.0),
    }


def _rounds(*, quick: bool) -> tuple[int, float]:
    return (1, 0.8) if quick else (5, 1.5)


SECTIONS = ("startup", *_IN_FLIGHT, *_sections(quick=True))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds: a look, not a measurement")
    parser.add_argument(
        "--only",
        metavar="SECTIONS",
        help=f"some of {','.join(SECTIONS)}; {' and '.join(_ON_REQUEST)} are measured only where named",
    )
    parser.add_argument("--json", metavar="PATH", type=Path, default=report.OUT / "bench.json")
    options = parser.parse_args()
    if options.only:
        options.only = options.only.split(",")
    else:
        options.only = [name for name in SECTIONS if name not in _ON_REQUEST]
    if unknown := set(options.only) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    return options


async def _measure(options: argparse.Namespace, found: dict[str, Any]) -> None:
    quick = options.quick
    if "startup" in options.only:
        print("startup ...", file=sys.stderr)
        found["startup"] = await measure_startup(1 if quick else 3)
    loads = [name for name in _IN_FLIGHT if name in options.only]
    if loads:
        await _load(loads, found, quick=quick)
    for name, measure in _sections(quick=quick).items():
        if name in options.only:
            print(f"{name} ...", file=sys.stderr)
            found[name] = await measure()


async def _load(names: list[str], found: dict[str, Any], *, quick: bool) -> None:
    """The sections that share one suite, and its memory after each."""
    rounds, seconds = _rounds(quick=quick)
    with open_suite() as suite:
        if not quick:
            await quiet()
        await settle(suite, "agent", "text")
        states = {"idle": memory(suite)}
        # Nothing of the load's own collections falls into a round.
        gc.freeze()
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            found[name] = await loaded(suite, name, _IN_FLIGHT[name], rounds=rounds, seconds=seconds)
            states[f"after {name}"] = memory(suite)
        found["memory"] = states


def _allow_files() -> None:
    """Let this process and what it starts have a connection for each of many runs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main() -> int:
    """Measure, print the table, write the JSON, of what was done before a failure too; the exit status."""
    options = _arguments()
    _allow_files()
    environment = report.environment(pinned=cores() is not None, quick=options.quick)
    found: dict[str, Any] = {}
    status = 0
    try:
        uvloop.run(_measure(options, found))
    except* BenchError as failures:
        print(f"bench failed: {_first(failures)}", file=sys.stderr)
        status = 1
    result = {"environment": environment, "sections": found}
    report.write(result, options.json)
    print(report.table(result))
    print(f"JSON: {options.json}")
    return status


def _first(failure: BaseException) -> BaseException:
    return _first(failure.exceptions[0]) if isinstance(failure, BaseExceptionGroup) else failure


if __name__ == "__main__":
    sys.exit(main())
