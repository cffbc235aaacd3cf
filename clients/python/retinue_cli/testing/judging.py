"""Holds what happened in a run against what was expected of it."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from retinue_cli.results import state_name
from retinue_cli.testing.cases import Expectations, Texts

if TYPE_CHECKING:
    from retinue.engine.v1 import event_pb2, run_pb2

_STATES = {0: "absent", 1: "open", 2: "completed", 3: "skipped", 4: "failed"}
"""StepState, without importing the stubs; a test holds them to the proto."""
_LONGEST = 300


class Judged:
    """What a run did, as its story tells."""

    def __init__(self, events: "Sequence[event_pb2.RunEvent]", asked: Sequence[str]) -> None:
        self.result: run_pb2.RunResult = events[-1].run_finished.result
        self._root = events[0].run_id
        self._events = events
        self._asked = asked

    def faults(self, expected: Expectations) -> Iterator[str]:
        """Yield what is not as expected."""
        yield from self._end(expected)
        yield from self._answer(expected)
        yield from self._steps(expected)
        if expected.tools is not None:
            yield from _differs("tools", expected.tools, self._tools())
        if expected.asked is not None:
            fits = len(expected.asked) == len(self._asked) and all(
                part in whole for part, whole in zip(expected.asked, self._asked, strict=True)
            )
            if not fits:
                yield _differ("asked", expected.asked, list(self._asked))
        if expected.max_turns is not None and self.result.turns > expected.max_turns:
            yield f"turns: at most {expected.max_turns} are expected, and it took {self.result.turns}"

    def _end(self, expected: Expectations) -> Iterator[str]:
        from retinue.errors import reason_name

        result = self.result
        state, message = state_name(result.state), result.error.message
        if state != expected.state:
            why = f": {_short(message)}" if message else ""
            yield f"state: {expected.state} is expected, and it {state}{why}"
        elif expected.error and reason_name(result.error.reason) != expected.error:
            yield _differ("error", expected.error, reason_name(result.error.reason))
        yield from _lacks("error", expected.error_contains, message)

    def _answer(self, expected: Expectations) -> Iterator[str]:
        output = self.result.output
        if expected.output is not None:
            yield from _differs("output", expected.output, output)
        yield from _lacks("output", expected.output_contains, output)
        if expected.output_matches and not re.search(expected.output_matches, output):
            yield f"output: {expected.output_matches!r} fits nothing in {_short(output)!r}"
        if "structured" in expected.model_fields_set:
            structured = self.result.structured_json
            yield from _differs("structured", expected.structured, json.loads(structured or "null"))

    def _steps(self, expected: Expectations) -> Iterator[str]:
        steps = {step.step: step for step in self.result.steps}
        for name, state in expected.steps.items():
            found = _STATES[steps[name].state] if name in steps else "absent"
            if found != state:
                why = f": {_short(steps[name].reason)}" if name in steps and steps[name].reason else ""
                yield f"steps.{name}: {state} is expected, and it is {found}{why}"
        outputs, routes = self._outputs_and_routes()
        for name, output in expected.outputs.items():
            if name in outputs:
                yield from _differs(f"outputs.{name}", output, outputs[name])
            else:
                yield f"outputs.{name}: {_shown(output)} is expected, and there is none"
        for name, route in expected.routes.items():
            yield from _differs(f"routes.{name}", route, routes.get(name))

    def _own(self) -> "Iterator[event_pb2.RunEvent]":
        return (event for event in self._events if event.run_id == self._root)

    def _outputs_and_routes(self) -> tuple[dict[str, Any], dict[str, str]]:
        outputs: dict[str, Any] = {}
        routes: dict[str, str] = {}
        for event in self._own():
            if event.HasField("step_completed"):
                outputs[event.step_completed.step] = json.loads(event.step_completed.output_json)
            elif event.HasField("route_taken"):
                routes[event.route_taken.step] = event.route_taken.route
        return outputs, routes

    def _tools(self) -> list[str]:
        calls = (event.tool_call_started for event in self._events if event.HasField("tool_call_started"))
        return [f"{call.server}/{call.tool}" if call.server else call.tool for call in calls]


def _differs(what: str, wanted: Any, found: Any) -> Iterator[str]:
    if wanted != found:
        yield _differ(what, wanted, found)


def _differ(what: str, wanted: Any, found: Any) -> str:
    return f"{what}: {_shown(wanted)} is expected, and it is {_shown(found)}"


def _lacks(what: str, wanted: Texts | None, found: str) -> Iterator[str]:
    for text in [wanted] if isinstance(wanted, str) else wanted or ():
        if text not in found:
            yield f"{what}: {_short(text)!r} is not in {_short(found)!r}"


def _shown(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
