"""The sessions of workflow steps: what each step remembers from earlier runs, how they are found and go."""

import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import SessionBusyError, SessionNotFoundError, SessionOfStepError
from tests.rpc.engine.test_custom_workflows import opened_with as opened_with_code
from tests.suite import Suite, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

AGENTS: dict[str, Any] = {"finder": {"system_prompt": "find"}, "writer": {"system_prompt": "write"}}
RULES: list[dict[str, Any]] = [{"when": {"system_contains": "find"}, "text": "found {last_user}"}]
STEPS: list[dict[str, Any]] = [
    {"name": "look", "agent": "finder"},
    {"name": "draft", "agent": "writer", "input": "about {{ steps.look.output }}"},
]


async def opened_with(
    opened: OpenSuite, steps: list[dict[str, Any]], rules: list[dict[str, Any]] | None = None, **more: Any
) -> Suite:
    others = more.pop("others", {})
    return await opened(
        {"rules": [*(rules or []), *RULES], "default": {"text": "wrote {last_user}"}},
        agents={**AGENTS, **more.pop("agents", {})},
        linear_workflows={"flow": {"steps": steps}, **others},
        **more,
    )


def with_tools(folder: Path) -> dict[str, Any]:
    """What the finder needs to call a tool."""
    return {
        "agents": {"finder": {"system_prompt": "find", "mcp_servers": ["tools"]}},
        "mcp_servers": {"tools": stdio_server(folder)},
    }


async def run(suite: Suite, message: str, session_id: str = "s", **more: Any) -> run_pb2.RunResult:
    result = (await suite.story("flow", message, session_id=session_id, **more))[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
    return result


def asked(suite: Suite, place: int) -> list[tuple[str, Any]]:
    """What a request to the model said, after the system prompt."""
    return [(each["role"], each["content"]) for each in suite.model.requests[place]["messages"][1:]]


async def texts(suite: Suite, session_id: str) -> list[Any]:
    return [each["content"] for each in await suite.messages(session_id)]


async def of_steps(suite: Suite, session_id: str = "s") -> list[str]:
    listed = suite.client.sessions.list(base_session_id=session_id, page_size=2)
    return sorted([each.session_id async for each in listed])


def children(events: list[event_pb2.RunEvent]) -> dict[str, str]:
    """The sessions of the runs inside a run, by their paths."""
    return {e.path: e.child_run_started.session_id for e in events if e.HasField("child_run_started")}


async def test_each_step_remembers_what_it_said_in_earlier_runs_of_the_session(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS)
    for message in ("one", "two", "three"):
        await run(suite, message)
    assert asked(suite, -2) == [
        ("user", "one"),
        ("assistant", "found one"),
        ("user", "two"),
        ("assistant", "found two"),
        ("user", "three"),
    ]
    assert asked(suite, -1)[:2] == [("user", "about found one"), ("assistant", "wrote about found one")]
    assert len(asked(suite, -1)) == 5
    assert await texts(suite, "s") == [
        text for each in ("one", "two", "three") for text in (each, f"wrote about found {each}")
    ]


async def test_a_step_says_which_session_it_has_and_what_it_used_there(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS)
    await run(suite, "one")
    events = await suite.story("flow", "two", session_id="s")
    started = [e for e in events if e.HasField("child_run_started")]
    assert [e.child_run_started.session_id for e in started] == ["s:look", "s:draft"]
    assert [e.child_run_started.history_position for e in started] == [2, 2]
    ended = [e.child_run_finished.result for e in events if e.HasField("child_run_finished")]
    assert [each.session_id for each in ended] == ["s:look", "s:draft"]
    child = await suite.client.runs.get(started[0].run_id)
    assert (child.session_id, child.result.session_id) == ("s:look", "s:look")
    session = await suite.client.sessions.get("s:look")
    assert (session.base_session_id, session.message_count, session.totals.runs) == ("s", 4, 2)
    assert session.totals.turns == 2
    assert session.totals.usage.input_tokens > 0
    messages = [each async for each in suite.client.sessions.messages("s:look")]
    assert messages[-1].run_id == started[0].run_id


async def test_a_generated_session_has_steps_too_and_can_be_gone_on_with(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS)
    events = await suite.story("flow", "one")
    base = events[0].run_started.session_id
    assert base.startswith("workflow-")
    assert await of_steps(suite, base) == [f"{base}:draft", f"{base}:look"]
    await run(suite, "two", base)
    assert asked(suite, -2) == [("user", "one"), ("assistant", "found one"), ("user", "two")]


async def test_workflows_inside_workflows_hand_their_session_down(opened: OpenSuite) -> None:
    steps = [
        {"name": "outer", "linear_workflow": "inner"},
        {"name": "after", "linear_workflow": "inner"},
    ]
    suite = await opened_with(opened, steps, others={"inner": {"steps": STEPS}})
    await run(suite, "one")
    await run(suite, "two")
    found = await of_steps(suite)
    assert found == sorted(
        ["s:after", "s:outer"] + [f"s:{a}:{b}" for a in ("after", "outer") for b in ("draft", "look")]
    )
    assert asked(suite, -4) == [("user", "one"), ("assistant", "found one"), ("user", "two")]
    assert await texts(suite, "s:outer") == [
        text for each in ("one", "two") for text in (each, f"wrote about found {each}")
    ]


async def test_each_item_of_a_list_has_a_session_and_rounds_share_one(opened: OpenSuite) -> None:
    each = {"items": "['x', 'y']", "agent": "writer", "input": "{{ item }} {{ input }}"}
    loop = {"agent": "writer", "until": "loop.round == 2", "max_rounds": 3}
    steps = [{"name": "all", "each": each}, {"name": "again", "loop": loop}]
    suite = await opened_with(opened, steps)
    await run(suite, "one")
    # A round does not see the one before it but by what it is asked: both are of this run.
    assert all(len(asked(suite, place)) == 1 for place in range(4))
    events = await suite.story("flow", "two", session_id="s")
    found = children(events)
    assert found["step:all/try:1/item:1"] == "s:all:1"
    assert found["step:all/try:1/item:2"] == "s:all:2"
    assert found["step:again/try:1/round:1"] == found["step:again/try:1/round:2"] == "s:again"
    seen = [each for place in range(4, 8) for each in [asked(suite, place)]]
    firsts = sorted(each[0][1] for each in seen[:2])
    assert firsts == ["x one", "y one"]
    assert [len(each) for each in seen] == [3, 3, 5, 5]


async def test_only_the_try_that_succeeds_is_remembered(opened: OpenSuite) -> None:
    steps = [{**STEPS[0], "retry": {"attempts": 3, "backoff": "1ms"}}]
    failing = {"when": {"system_contains": "find"}, "times": 1, "error": {"status": 500}}
    suite = await opened_with(opened, steps, [failing])
    await run(suite, "one")
    assert await texts(suite, "s:look") == ["one", "found one"]
    session = await suite.client.sessions.get("s:look")
    assert (session.totals.runs, session.totals.turns) == (2, 1)


@pytest.mark.parametrize(
    ("agent", "option", "sees"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
async def test_history_goes_by_the_agent_and_by_the_run_over_it(
    opened: OpenSuite, *, agent: bool, option: bool | None, sees: bool
) -> None:
    finder = {"system_prompt": "find", "include_history": agent}
    suite = await opened_with(opened, STEPS[:1], agents={"finder": finder})
    await run(suite, "one")
    options = run_pb2.RunOptions() if option is None else run_pb2.RunOptions(include_history=option)
    await run(suite, "two", options=options)
    assert len(asked(suite, -1)) == (3 if sees else 1)
    # What is not read is written all the same.
    assert await texts(suite, "s:look") == ["one", "found one", "two", "found two"]


async def test_a_step_that_was_waiting_goes_on_with_what_it_remembers(opened: OpenSuite) -> None:
    ask = {"tool_calls": [{"name": "ask_user", "arguments": {"question": "Really?"}}]}
    rules = [{"when": {"user_contains": "two", "last_role": "user"}, **ask}]
    finder = {"system_prompt": "find", "ask_user": True}
    suite = await opened_with(opened, STEPS[:1], rules, agents={"finder": finder})
    await run(suite, "one")
    started = await suite.client.runs.start("flow", "two", session_id="s")
    (request,) = await suite.asked(started.run_id)
    await suite.reaches(started.run_id, run_pb2.RUN_STATE_WAITING)
    before = asked(suite, -1)
    await suite.client.inputs.provide(request, "yes")
    assert (await suite.ended(started.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert before == [("user", "one"), ("assistant", "found one"), ("user", "two")]
    assert asked(suite, -1)[:3] == before
    roles = [each["role"] for each in await suite.messages("s:look")]
    assert roles == ["user", "assistant", "user", "assistant", "tool", "assistant"]


async def test_a_run_that_is_retried_remembers_what_was_said_before(opened: OpenSuite) -> None:
    failing = {
        "when": {"system_contains": "write", "user_contains": "two"},
        "times": 1,
        "error": {"status": 500},
    }
    suite = await opened_with(opened, STEPS, [failing])
    await run(suite, "one")
    failed = (await suite.story("flow", "two", session_id="s"))[-1]
    assert failed.run_finished.result.state == run_pb2.RUN_STATE_FAILED
    again = await suite.client.runs.retry(failed.run_id)
    assert (await suite.ended(again.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert asked(suite, -1) == [
        ("user", "about found one"),
        ("assistant", "wrote about found one"),
        ("user", "about found two"),
    ]
    assert await texts(suite, "s:look") == ["one", "found one", "two", "found two"]


async def test_the_agent_of_a_step_can_be_talked_with_in_its_session(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS)
    await run(suite, "one")
    await suite.story("finder", "why?", session_id="s:look")
    assert asked(suite, -1) == [("user", "one"), ("assistant", "found one"), ("user", "why?")]
    await run(suite, "two")
    assert [text for _, text in asked(suite, -2)] == ["one", "found one", "why?", "found why?", "two"]


async def test_a_session_that_somebody_began_is_not_taken_for_a_steps(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS[:1])
    await suite.story("writer", "mine", session_id="s:look")
    events = await suite.story("flow", "one", session_id="s")
    assert children(events) == {"step:look/try:1": ""}
    assert asked(suite, -1) == [("user", "one")]
    assert await texts(suite, "s:look") == ["mine", "wrote mine"]
    assert (await suite.client.sessions.get("s:look")).base_session_id == ""


async def test_what_a_model_calls_as_a_tool_has_no_session(opened: OpenSuite) -> None:
    call = {"tool_calls": [{"name": "flow", "arguments": {"message": "go"}}]}
    rules = [
        {"when": {"system_contains": "boss", "last_role": "user"}, **call},
        {"when": {"system_contains": "boss"}, "text": "told"},
    ]
    boss = {"system_prompt": "boss", "linear_workflows": ["flow"]}
    suite = await opened_with(opened, STEPS, rules, agents={"boss": boss})
    events = await suite.story("boss", "hi", session_id="s")
    assert set(children(events).values()) == {""}
    assert await of_steps(suite) == []


async def test_calls_of_code_have_sessions_by_their_keys(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with_code(opened, tmp_path, ["Writes"])
    for topic in ("gold", "tin"):
        events = await suite.story("writes", json.dumps({"topic": topic, "words": 3}), session_id="s")
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert await of_steps(suite) == ["s:agent:finder#1", "s:draft"]
    assert await texts(suite, "s:agent:finder#1") == ["Look for gold.", "gold", "Look for tin.", "gold"]


async def test_an_image_that_a_step_has_seen_is_shown_again(opened: OpenSuite, tmp_path: Path) -> None:
    picture = base64.b64encode(b"\x89PNG picture").decode()
    call = {"tool_calls": [{"name": "tools__picture", "arguments": {"base64": picture}}]}
    rules = [{"when": {"user_contains": "one", "last_role": "user", "turn": 1}, **call}]
    suite = await opened_with(
        opened,
        STEPS[:1],
        rules,
        **with_tools(tmp_path),
    )
    await run(suite, "one")
    await run(suite, "two")
    parts = [part for _, content in asked(suite, -1) if isinstance(content, list) for part in content]
    assert [part["image_url"]["url"] for part in parts if "image_url" in part] == [
        f"data:image/png;base64,{picture}"
    ]


async def test_a_session_is_exported_and_deleted_with_those_of_its_steps(opened: OpenSuite) -> None:
    suite = await opened_with(opened, STEPS)
    await run(suite, "one")
    pieces = [piece async for piece in suite.client.sessions.export("s")]
    shape = [piece.WhichOneof("piece") for piece in pieces]
    assert shape == ["session", "message", "message", "run", *["session", "message", "message"] * 2]
    assert [p.session.session_id for p in pieces if p.HasField("session")] == ["s", "s:draft", "s:look"]
    assert [each.session_id async for each in suite.client.sessions.list()] == ["s"]
    with pytest.raises(SessionOfStepError) as refused:
        await suite.client.sessions.delete("s:look")
    assert refused.value.facts == {"session_id": "s:look", "base_session_id": "s"}
    assert await suite.client.sessions.delete("s") == 3
    for session_id in ("s", "s:look", "s:draft"):
        with pytest.raises(SessionNotFoundError):
            await suite.client.sessions.get(session_id)


async def test_a_session_is_not_deleted_while_a_step_is_at_work(opened: OpenSuite, tmp_path: Path) -> None:
    call = {"tool_calls": [{"name": "tools__hold_again", "arguments": {}}]}
    rules = [{"when": {"user_contains": "two", "last_role": "user"}, **call}]
    suite = await opened_with(
        opened,
        STEPS[:1],
        rules,
        **with_tools(tmp_path),
    )
    await run(suite, "one")
    started = await suite.client.runs.start("flow", "two", session_id="s")
    await until(suite.notes, "the tool is called")
    with pytest.raises(SessionBusyError):
        await suite.client.sessions.delete("s")
    (tmp_path / "release").touch()
    await suite.ended(started.run_id)
    assert len(await suite.messages("s:look")) == 6
