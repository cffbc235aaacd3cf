"""Sessions: what a conversation holds, and how the runs of one session follow one another."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import SessionNotFoundError
from tests.suite import Suite, check_story, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


@pytest.mark.parametrize("session_id", ["s", "Größe/ 1:2\n", "agent-00000000", "x" * 256])
async def test_a_given_id_is_used_exactly_as_given(opened: OpenSuite, session_id: str) -> None:
    suite = await opened()
    for _ in range(2):
        assert (await suite.story(session_id=session_id))[0].run_started.session_id == session_id
    session = await suite.client.sessions.get(session_id)
    assert (session.session_id, session.message_count) == (session_id, 4)
    assert [each.session_id async for each in suite.client.sessions.list()] == [session_id]


async def test_the_history_goes_to_the_model(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "answer {turn}"}}, agents={"b": {"system_prompt": "be kind"}})
    await suite.story(message="one", session_id="s")
    await suite.story("b", message="two", session_id="s")
    assert suite.model.requests[-1]["messages"] == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "answer 1"},
        {"role": "user", "content": "two"},
    ]
    # What an agent is told before the conversation is its own, not the session's.
    assert [each["role"] for each in await suite.messages("s")] == ["user", "assistant", "user", "assistant"]


async def test_messages_are_counted_from_one_and_paged(opened: OpenSuite) -> None:
    suite = await opened()
    runs = [(await suite.story(session_id="s"))[0].run_id for _ in range(4)]
    found = [each async for each in suite.client.sessions.messages("s", page_size=3)]
    assert [each.position for each in found] == list(range(1, 9))
    assert [each.run_id for each in found] == [run for run in runs for _ in range(2)]


async def test_sessions_are_listed_newest_first_and_paged(opened: OpenSuite) -> None:
    suite = await opened()
    for number in range(7):
        await suite.story(session_id=f"s{number}")
    found = [each.session_id async for each in suite.client.sessions.list(page_size=2)]
    assert found == [f"s{number}" for number in reversed(range(7))]


async def test_an_unknown_session_is_not_found(opened: OpenSuite) -> None:
    suite = await opened()
    with pytest.raises(SessionNotFoundError) as unknown:
        await suite.client.sessions.get("nowhere")
    assert unknown.value.facts == {"session_id": "nowhere"}
    with pytest.raises(SessionNotFoundError):
        await suite.messages("nowhere")


async def test_runs_of_one_session_run_one_after_another_in_their_order(opened: OpenSuite) -> None:
    first = {"when": {"user_contains": "m0"}, "text": "to {last_user}", "delay_ms": 1000}
    suite = await opened({"rules": [first], "default": {"text": "to {last_user}"}})
    runs = [await suite.client.runs.start("a", f"m{number}", session_id="s") for number in range(6)]
    assert [run.state for run in runs] == [run_pb2.RUN_STATE_RUNNING] + [run_pb2.RUN_STATE_QUEUED] * 5
    stories = await asyncio.gather(*(suite.watched(run.run_id) for run in runs))
    for story in stories:
        check_story(story)
    assert [each["content"] for each in await suite.messages("s")] == [
        text for number in range(6) for text in (f"m{number}", f"to m{number}")
    ]
    # Each began after the one before had ended, and saw all that it said.
    for before, after in itertools.pairwise(stories):
        began = next(event for event in after if event.WhichOneof("event") == "turn_started")
        assert began.time.ToNanoseconds() >= before[-1].time.ToNanoseconds()
    assert [len(each["messages"]) for each in suite.model.requests] == [1, 3, 5, 7, 9, 11]


async def test_runs_of_different_sessions_run_side_by_side(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    for number in range(20):
        await suite.client.runs.start("a", "hi", session_id=f"s{number}")
    await until(lambda: len(suite.model.requests) == 20, "all models are asked at once")


async def test_a_failed_run_lets_the_next_of_its_session_begin(opened: OpenSuite) -> None:
    suite = await opened(
        {"rules": [{"when": {"user_contains": "fail"}, "error": {"status": 400}}], "default": {"text": "ok"}}
    )
    first = await suite.client.runs.start("a", "fail", session_id="s")
    second = await suite.client.runs.start("a", "hi", session_id="s")
    assert (await suite.ended(first.run_id)).state == run_pb2.RUN_STATE_FAILED
    assert (await suite.ended(second.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    # Nothing was answered, so nothing was said.
    assert [each["content"] for each in await suite.messages("s")] == ["hi", "ok"]


async def test_a_run_that_ends_badly_leaves_no_call_without_its_result(
    opened: OpenSuite, tmp_path: Path
) -> None:
    script = {
        "rules": [
            {"when": {"user_contains": "fail", "last_role": "tool"}, "error": {"status": 400}},
            {"when": {"user_contains": "fail"}, "tool_calls": [{"name": "tools__look"}]},
            {
                "when": {"user_contains": "cancel"},
                "tool_calls": [{"name": "tools__look"}, {"name": "tools__hang"}],
            },
        ],
        "default": {"text": "ok"},
    }
    suite = await opened(
        script, agents={"b": {"mcp_servers": ["tools"]}}, mcp_servers={"tools": stdio_server(tmp_path)}
    )
    failed = await suite.story("b", "fail", session_id="s")
    assert failed[-1].run_finished.result.state == run_pb2.RUN_STATE_FAILED
    run = await suite.client.runs.start("b", "cancel", session_id="s")
    await until(lambda: suite.notes("hanging"), "the tool hangs")
    await suite.client.runs.cancel(run.run_id)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
    messages = await suite.messages("s")
    assert [each["role"] for each in messages] == ["user", "assistant", "tool"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"]
    good = await suite.story("a", "hi", session_id="s")
    assert kinds(good)[-1] == "run_finished"
    assert [each["role"] for each in suite.model.requests[-1]["messages"]] == [
        "user",
        "assistant",
        "tool",
        "user",
    ]


async def test_a_session_is_in_its_namespace_alone(opened: OpenSuite) -> None:
    suite = await opened()
    await suite.story(session_id="s")
    listed = await suite.sessions.ListSessions(service_pb2.ListSessionsRequest(namespace="other"))
    assert not listed.sessions
