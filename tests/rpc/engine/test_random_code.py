"""Random code of custom workflows, killed anywhere, gives what a small model of its rules foretells."""

import asyncio
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import McpRequestRefusedError
from tests.rpc.engine.test_custom_workflows import AGENTS, SCRIPT, custom
from tests.suite import Suite, lines, open_suite, stdio_server

PLANS = 7
MOST_INSIDE = 2
"""How deep branches are inside one another."""
CALLS = ("tool", "fail", "agent", "workflow", "write", "read", "emit", "sleep")
OWN_KEYS = {
    "tool": "tool:tools.count_again",
    "fail": "tool:tools.fail",
    "agent": "agent:writer",
    "workflow": "linear_workflow:line",
    "emit": "emit:told",
    "sleep": "sleep",
}

Part = dict[str, Any]


class Plan(NamedTuple):
    """What the code does, and where its processes are killed."""

    parts: list[Part]
    dies_at: list[int]
    lag_s: float


def sequence(draw: st.DrawFn, place: str, written: list[str], inside: int = 0) -> list[Part]:
    """Parts one after the other; `written` has the names of the state that they may read, and gets theirs."""
    parts: list[Part] = []
    for number in range(draw(st.integers(1, 3) if inside else st.integers(3, 7))):
        part: Part = {"at": f"{place}{number}", "named": bool(inside) or draw(st.booleans())}
        part["do"] = draw(st.sampled_from(CALLS if inside == MOST_INSIDE else (*CALLS, "gather", "gather")))
        if part["do"] == "write":
            part["name"] = f"{place}{draw(st.sampled_from('ab'))}"
            written.append(part["name"])
        elif part["do"] == "read":
            part["name"] = draw(st.sampled_from(["nothing", *written]))
        elif part["do"] == "gather":
            part["branches"], later = [], []
            for branch in range(draw(st.integers(1, 3))):
                # What the others write has no order for it.
                known = list(written)
                part["branches"].append(sequence(draw, f"{part['at']}.{branch}.", known, inside + 1))
                later += known[len(written) :]
            written += later
        parts.append(part)
    return parts


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts = sequence(draw, "", [])
    dies_at = draw(st.lists(st.integers(2, 9), min_size=1, max_size=2))
    return Plan(parts, dies_at, draw(st.sampled_from((0.0, 0.001, 0.004, 0.02))))


class Foretold:
    """What a plan gives, and how each of its calls ends, by key."""

    def __init__(self, number: int, parts: list[Part]) -> None:
        self._number = number
        self._counts: Counter[str] = Counter()
        self._state: dict[str, str] = {}
        self.ends: dict[str, Any] = {}
        """What the calls give; of those that fail the reason."""
        self.effects: dict[str, str] = {}
        """The keys of the calls that are seen outside, by what is seen."""
        self.output = self._all(parts)

    def _all(self, parts: list[Part]) -> list[Any]:
        return [self._part(part) for part in parts]

    def _part(self, part: Part) -> Any:
        what, said = part["do"], f"{self._number}/{part['at']}"
        if what == "gather":
            return [self._all(branch) for branch in part["branches"]]
        key = part["at"] if part["named"] else self._next_key(part)
        if what in ("tool", "agent"):
            self.effects[said] = key
        if what == "write":
            self._state[part["name"]] = part["at"]
        if what == "fail":
            self.ends[key] = pb.ERROR_REASON_MCP_REQUEST_REFUSED
            return McpRequestRefusedError.__name__
        given = {
            "tool": "ok",
            "agent": f"written: {said}",
            "workflow": f"in line: {said}",
            "read": self._state.get(part.get("name", "")),
        }.get(what)
        self.ends[key] = {"write": part["at"], "emit": part["at"]}.get(what, given)
        return given

    def _next_key(self, part: Part) -> str:
        kind = OWN_KEYS.get(part["do"]) or f"{part['do']}_state:{part['name']}"
        self._counts[kind] += 1
        return f"{kind}#{self._counts[kind]}"


def ends_of(story: list[event_pb2.RunEvent]) -> list[tuple[str, Any]]:
    """How the calls of a run ended, in order, those counted that were restored."""
    found: list[tuple[str, Any]] = []
    for event in story:
        which = event.WhichOneof("event")
        if which == "call_completed":
            found.append((event.call_completed.key, json.loads(event.call_completed.output_json)))
        elif which == "call_failed":
            found.append((event.call_failed.key, event.call_failed.error.reason))
        elif which == "state_changed":
            found.append((event.state_changed.key, json.loads(event.state_changed.value_json)))
        elif which == "custom_event":
            found.append((event.custom_event.key, json.loads(event.custom_event.data_json)))
    return found


def made(stories: list[list[event_pb2.RunEvent]]) -> tuple[Counter[str], Counter[str]]:
    """How often calls were begun and completed by the runs themselves, and not taken over from another."""
    begun: Counter[str] = Counter()
    done: Counter[str] = Counter()
    for story in stories:
        completed = [event.call_completed for event in story if event.HasField("call_completed")]
        restored = {each.key for each in completed if each.restored}
        done.update(each.key for each in completed if not each.restored)
        started = {event.call_started.key for event in story if event.HasField("call_started")}
        begun.update(started - restored)
    return begun, done


async def stories_of(suite: Suite, number: int, plan: Plan) -> list[list[event_pb2.RunEvent]]:
    """The story of a run of a plan, and of each that goes on from one whose process was killed."""
    message = plan._asdict() | {"number": number}
    stories = [await suite.story("follows", json.dumps(message))]
    while (error := stories[-1][-1].run_finished.result.error).reason == pb.ERROR_REASON_WORKER_EXITED:
        assert "was ended by SIGKILL" in error.message
        again = await suite.client.runs.retry(stories[-1][0].run_id)
        stories.append(await suite.watched(again.run_id))
    return stories


async def check(suite: Suite, number: int, plan: Plan) -> None:
    foretold = Foretold(number, plan.parts)
    stories = await stories_of(suite, number, plan)
    last = stories[-1]
    result = last[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
    assert json.loads(result.structured_json) == foretold.output
    assert [event.sequence for event in last] == list(range(1, len(last) + 1))
    ends = ends_of(last)
    assert dict(ends) == foretold.ends
    assert len(ends) == len(foretold.ends), "a call ended twice"
    if len(stories) == 1 and all(part["do"] != "gather" for part in plan.parts):
        assert [key for key, _ in ends] == list(foretold.ends)
    assert len(lines(suite.folder / f"processes_{number}")) == len(stories)
    begun, done = made(stories)
    seen = Counter(each["arguments"]["n"] for each in suite.notes())
    seen.update(request["messages"][-1]["content"] for request in suite.model.requests)
    for what, key in foretold.effects.items():
        assert done[key] == 1
        # Only what was under way when its process was killed is made again.
        assert 1 <= seen[what] <= begun[key]


# The services in this process use `random` while Hypothesis draws in its own thread.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_random_code_whose_process_is_killed_makes_each_call_once_and_gives_what_is_foretold(
    tmp_path: Path,
) -> None:
    async with open_suite(
        tmp_path,
        SCRIPT,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        linear_workflows={
            "line": {"steps": [{"name": "say", "transform": {"template": "in line: {{ input }}"}}]}
        },
        custom_workflows={
            "follows": custom(tmp_path, "Follows", mcp_servers=["tools"], linear_workflows=["line"])
            | {"entry_point": "planned:Follows"}
        },
        workers_ahead=2,
    ) as suite:
        loop, numbers = asyncio.get_running_loop(), itertools.count(1)

        @settings(max_examples=PLANS, deadline=None)
        @given(plans())
        def holds(plan: Plan) -> None:
            # Hypothesis calls from a thread of its own; the services live on this loop.
            asyncio.run_coroutine_threadsafe(check(suite, next(numbers), plan), loop).result(60)

        await asyncio.to_thread(holds)
