"""The calls of custom workflows, and what their processes write, as people read them."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from retinue_cli.events_steps import Say
from retinue_cli.wording import clean, count, seconds

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from retinue.engine.v1 import event_pb2

_STDERR, _WAITING, _PAUSED = 2, 3, 4
"""OutputStream and WorkerOutcome, without importing the stubs."""


class CallLines:
    """Prints the events of custom workflows: a method for each kind."""

    def __init__(self, say: Say, line_of: Callable[[str], str]) -> None:
        self._say = say
        self._line_of = line_of
        self._seen_inside: set[str] = set()
        """The keys of calls that run something, whose own lines tell what it gave."""

    def worker_started(self, worker: "event_pb2.WorkerStarted") -> None:
        again = f" again, the {worker.number}. time" if worker.number > 1 else ""
        self._say((f"(the code runs{again})", "dim"))

    def worker_output(self, output: "event_pb2.WorkerOutput") -> None:
        mark = "! " if output.stream == _STDERR else "| "
        for line in clean(output.text).splitlines():
            self._say((mark, "dim"), (line, "dim"))

    def worker_ended(self, worker: "event_pb2.WorkerEnded") -> None:
        if worker.dropped_bytes:
            self._say((f"({count(worker.dropped_bytes, 'byte')} that it wrote are not kept)", "yellow"))
        if worker.outcome in (_WAITING, _PAUSED):
            self._say(("(its process ends until the run goes on)", "dim"))

    def call_started(self, call: "event_pb2.CallStarted") -> None:
        self._say(("▸ ", "cyan"), (call.key, "bold cyan"))
        if call.call.HasField("run") or call.call.HasField("tool"):
            self._seen_inside.add(call.key)

    def call_completed(self, call: "event_pb2.CallCompleted") -> None:
        value = json.loads(call.output_json)
        output = value if isinstance(value, str) else call.output_json
        took = "from the run before" if call.restored else _span(call.duration)
        self._say(("◂ ", "green"), (call.key, "bold green"), (f" {took}", "dim"))
        if call.restored or call.key not in self._seen_inside:
            self._say((self._line_of(output), "dim"), indent=2)

    def call_failed(self, call: "event_pb2.CallFailed") -> None:
        self._say(("✗ ", "red"), (call.key, "bold red"), (f" {_span(call.duration)}", "dim"))
        self._say((self._line_of(call.error.message), "red"), indent=2)

    def custom_event(self, told: "event_pb2.CustomEvent") -> None:
        self._say(("• ", "magenta"), (told.name, "bold magenta"), (f" {self._line_of(told.data_json)}", ""))

    def state_changed(self, changed: "event_pb2.StateChanged") -> None:
        value = changed.value_json or "is removed"
        self._say((f"({changed.name} = {self._line_of(value)})", "dim"))


def _span(duration: "Duration") -> str:
    return seconds(duration.seconds + duration.nanos / 1e9)
