"""The tables of a report, one for each section."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

_COLUMNS = "{:<42}{:>12}{:>12}{:>9}"
_CROWDED = 0.8
"""Part of its core that a system under full load gets at least where nothing else runs."""
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
for _name in ("paced", "litellm", "mongodb"):
    _ROWS[_name] = _ROWS["agent"]
_NOT_FULL = ("paced", "mongodb")
"""Sections that leave cores free."""
_TITLES = {
    "agent": "agent runs: two model calls, one MCP tool call over stdio",
    "paced": "agent runs that do not fill a core: the model thinks 300 ms each time",
    "litellm": "agent runs where both ask the model by litellm (target: a ratio of 0.85 in runs/s)",
    "mongodb": "agent runs, durable on MongoDB",
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
        if section not in _NOT_FULL and int(in_flight) > 1 and min(floor["busy"], retinue["busy"]) < _CROWDED:
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


def _finished(cells: dict[str, Any]) -> Iterable[str]:
    yield f"{cells['count']:,} finished runs in the store (target: a ratio of 0.75 in runs/s)"
    yield _COLUMNS.format(f"  agent runs, {cells['in_flight']} in flight", "empty", "full", "ratio")
    for name, key, form in _ROWS["agent"]:
        empty, full = cells["empty"][key], cells["full"][key]
        yield _row(f"    {name}", form.format(empty), form.format(full), cells["ratio"][key])
    yield _COLUMNS.format("  of the engine", "empty", "full", "ratio")
    for key in cells["alone"]:
        empty, full = cells["empty"][key], cells["full"][key]
        yield _row(f"    {key}", f"{empty:.2f}", f"{full:.2f}", cells["ratio"][key])
    yield f"    {cells['statements']} statements, {len(cells['scans'])} that read a whole table"
    yield from (f"      {statement}" for statement in cells["scans"])
    yield ""


def _peers(cells: dict[str, Any]) -> Iterable[str]:
    yield f"agent runs by peers, {cells['in_flight']} in flight: in their process, no server, no store"
    columns = "    {:<38}{:>10}{:>12}{:>14}{:>16}"
    yield columns.format("", "runs/s", "p50", "CPU per run", "retinue to it")
    for name, found in sorted(cells["systems"].items(), key=lambda item: -item[1]["runs_per_s"]):
        yield columns.format(
            f"{name} {cells['versions'].get(name, '')}",
            f"{found['runs_per_s']:.0f}",
            f"{found['p50_ms']:.1f} ms",
            f"{found['cpu_ms_per_run']:.2f} ms",
            f"{cells['ratio'][name]:.2f}",
        )
    yield from (f"    {name}: {why}" for name, why in cells["failed"].items())
    yield ""


def _profile(cells: dict[str, Any]) -> Iterable[str]:
    threads = cells["threads_ms_per_run"]
    yield f"where the engine's {sum(threads.values()):.2f} ms of CPU per agent run go"
    titles = {
        "threads_ms_per_run": "by thread, without the profiler",
        "groups_ms_per_run": "the event loop's thread, self time by module",
        "functions_ms_per_run": "the same by function, the first of them",
    }
    for key, title in titles.items():
        yield f"  {title}"
        whole = sum(threads.values()) if key == "threads_ms_per_run" else cells["loop_ms_per_run"]
        yield from (f"    {name:<66}{ms:>8.3f} ms{ms / whole:>7.1%}" for name, ms in cells[key].items())
    slower = cells["profiled_ms_per_run"] / cells["loop_ms_per_run"]
    yield f"  under the profiler it was {slower:.1f} times as long; that is taken off, the same for each call"
    yield ""


SECTIONS: dict[str, Callable[[dict[str, Any]], Iterable[str]]] = {
    "startup": _startup,
    **{name: partial(_loaded, name) for name in _TITLES},
    "memory": _memory,
    "many": _plain("many runs at once: the model holds its answers until all of them are at work"),
    "waiting": _plain("runs that wait for a person's answer"),
    "watchers": _plain("many watchers of one run"),
    "finished": _finished,
    "host": _plain("MCP host: a tool call through it, and the SDK alone on a kept connection"),
    "workflows": _plain("workflows: what a step and a branch cost, few and many"),
    "registry": _plain("registry of 10,000 components"),
    "peers": _peers,
    "profile": _profile,
}
"""The lines of each section."""
