"""An engine in this process, under a profiler when it is asked for.

Each line of input is a command: `begin` profiles the event loop's thread, `end` answers what its functions
took, `threads` answers what each thread has used. The first line of output is the engine's own.
"""

import asyncio
import cProfile
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType
from typing import Any

import uvloop

from retinue_engine.app import open_app
from retinue_engine.settings import EngineSettings
from retinue_kit.logs import configure_logs
from retinue_kit.server import open_server

Function = tuple[str, str, int, float]
"""A function, who called it where that is told apart, how often, and the processor seconds in it alone."""

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Profiler:
    """Profiles the thread that it is used in, by processor time."""

    def __init__(self) -> None:
        self._profile: cProfile.Profile | None = None
        self._begin_s = 0.0

    def carry_out(self, command: str) -> dict[str, Any]:
        """Do what a line says; the answer."""
        if command == "begin":
            self._profile = cProfile.Profile(time.thread_time)
            self._begin_s = time.thread_time()
            self._profile.enable()
            return {}
        return _threads() if command == "threads" else self._end()

    def _end(self) -> dict[str, Any]:
        assert self._profile is not None
        self._profile.disable()
        return {
            "thread_s": time.thread_time() - self._begin_s,
            "functions": list(_functions(self._profile.getstats())),
        }


def _functions(entries: Sequence[Any]) -> Iterator[Function]:
    """What was called: functions in Python each once, those in C once for each function that calls them."""
    in_c: dict[str, tuple[int, float]] = {}
    for entry in entries:
        if isinstance(entry.code, str):
            in_c[entry.code] = (entry.callcount, entry.inlinetime)
        else:
            yield _name(entry.code), "", entry.callcount, entry.inlinetime
    for entry in entries:
        for call in entry.calls or ():
            if isinstance(call.code, str):
                calls, self_s = in_c[call.code]
                in_c[call.code] = (calls - call.callcount, self_s - call.inlinetime)
                yield call.code, _name(entry.code), call.callcount, call.inlinetime
    for name, (calls, self_s) in in_c.items():
        yield name, "", calls, self_s


def _name(code: CodeType | str) -> str:
    if isinstance(code, str):
        return code
    return f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}"


def _threads() -> dict[str, float]:
    """Processor seconds of each thread; those that Python did not start are of gRPC."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    used: dict[str, float] = {}
    for task in Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        name = names.get(int(task.name), "gRPC's own")
        used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) * _TICK_S
    return used


async def _serve() -> None:
    settings = EngineSettings()
    configure_logs(settings.service, settings.log_level, settings.log_format)
    loop, stop, profiler = asyncio.get_running_loop(), asyncio.Event(), Profiler()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def on_input() -> None:
        lines = os.read(sys.stdin.fileno(), 4096).decode()
        if not lines:
            stop.set()
        for line in lines.split():
            print(json.dumps(profiler.carry_out(line)), flush=True)

    loop.add_reader(sys.stdin.fileno(), on_input)
    async with open_server(settings, open_app) as served:
        print(json.dumps({"address": served.address}), flush=True)
        await stop.wait()
    loop.remove_reader(sys.stdin.fileno())


if __name__ == "__main__":
    uvloop.run(_serve())
