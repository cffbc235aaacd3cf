"""Conversations that grow too long: what the model is still sent, and what the session keeps."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import InvalidArgumentError
from tests.suite import Suite, check_story, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

LONG = "word " * 80
"""About a hundred tokens."""


def limited(tokens: int) -> run_pb2.RunOptions:
    return run_pb2.RunOptions(max_context_tokens=tokens)


def trims(events: list[event_pb2.RunEvent]) -> list[event_pb2.ContextTrimmed]:
    return [e.context_trimmed for e in events if e.WhichOneof("event") == "context_trimmed"]


def check_whole(messages: list[dict[str, Any]]) -> None:
    """Assert that no call stands without its results, and no result without its call."""
    for place, message in enumerate(messages):
        after = list(itertools.takewhile(lambda each: each["role"] == "tool", messages[place + 1 :]))
        if message["role"] != "tool":
            calls = [each["id"] for each in message.get("tool_calls") or ()]
            assert [each["tool_call_id"] for each in after] == calls
        else:
            assert place


async def test_old_messages_are_left_out_and_the_session_keeps_them(opened: OpenSuite) -> None:
    suite = await opened(
        {"default": {"text": "answer {turn}"}},
        agents={"b": {"system_prompt": "be brief", "max_context_tokens": 500}},
    )
    for number in range(4):
        events = await suite.story("b", f"{number} {LONG}", session_id="s")
        assert trims(events) == []
    events = await suite.story("b", f"4 {LONG}", session_id="s")
    check_story(events)
    (trim,) = trims(events)
    trimmed = next(event for event in events if event.WhichOneof("event") == "context_trimmed")
    assert trimmed.path == "turn:1"
    assert kinds(events)[:4] == ["run_started", "context_trimmed", "turn_started", "text_delta"]
    sent = suite.model.requests[-1]["messages"]
    kept = await suite.messages("s")
    assert len(kept) == 10
    # What is sent is the end of the conversation, behind the system prompt.
    assert sent[0] == {"role": "system", "content": "be brief"}
    assert sent[1:] == kept[trim.omitted_messages : 9]
    assert trim.tokens_before > 500 >= trim.tokens_after
    assert trim.tokens_after > 200
    # The next run begins with all of it again, and is trimmed anew.
    (again,) = trims(await suite.story("b", "short", session_id="s"))
    assert again.omitted_messages >= trim.omitted_messages
    # A run without a limit is sent everything.
    await suite.story("a", "hi", session_id="s")
    assert len(suite.model.requests[-1]["messages"]) == 13


async def test_the_runs_limit_stands_over_the_agents(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": LONG}}, agents={"b": {"max_context_tokens": 256}})
    for _ in range(3):
        await suite.story("a", LONG, session_id="s")
    assert trims(await suite.story("b", "hi", session_id="s", options=limited(100_000))) == []
    assert len(trims(await suite.story("b", "hi", session_id="s"))) == 1
    assert len(trims(await suite.story("a", "hi", session_id="s", options=limited(256)))) == 1


async def test_what_the_run_was_asked_stays_and_what_it_did_since(opened: OpenSuite, tmp_path: Path) -> None:
    big = {"tool_calls": [{"name": "tools__big", "arguments": {"of": "x", "size": 600}}]}
    script = {
        "rules": [{"when": {"user_contains": "first"}, "text": LONG}],
        "turns": [big, big, big, big, {"text": "done"}],
    }
    suite = await opened(
        script,
        agents={"b": {"mcp_servers": ["tools"], "max_context_tokens": 400}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    await suite.story("a", f"first {LONG}", session_id="s")
    events = await suite.story("b", "the question", session_id="s")
    check_story(events)
    assert events[-1].run_finished.result.output == "done"
    for request in suite.model.requests[1:]:
        check_whole(request["messages"])
        assert "the question" in [each["content"] for each in request["messages"]]
    # Where nothing more can be left out, nothing is said again.
    omitted = [each.omitted_messages for each in trims(events)]
    assert omitted == sorted(set(omitted))
    assert len(await suite.messages("s")) == 2 + 10


async def test_what_the_engine_tells_the_model_does_not_push_the_question_out(
    opened: OpenSuite, tmp_path: Path
) -> None:
    same = {"tool_calls": [{"name": "tools__big", "arguments": {"of": "x", "size": 900}}]}
    script = {"rules": [{"when": {"user_contains": "in a row"}, "text": "done"}], "default": same}
    suite = await opened(
        script,
        agents={"b": {"mcp_servers": ["tools"], "max_context_tokens": 500, "stall_after": 3}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    events = await suite.story("b", "the question")
    check_story(events)
    assert events[-1].run_finished.result.output == "done"
    sent = suite.model.requests[-1]["messages"]
    assert "in a row" in sent[-1]["content"]
    assert sent[0]["content"] == "the question"


async def test_calls_and_results_are_left_out_together(opened: OpenSuite, tmp_path: Path) -> None:
    calls = [{"name": "tools__big", "arguments": {"of": "x", "size": 200}}] * 3
    script = {
        "rules": [{"when": {"last_role": "tool"}, "text": "done"}],
        "default": {"text": "let me see", "tool_calls": calls},
    }
    suite = await opened(
        script, agents={"b": {"mcp_servers": ["tools"]}}, mcp_servers={"tools": stdio_server(tmp_path)}
    )
    for limit in (256, 300, 350, 400, 450, 500, 600, 700):
        events = await suite.story("b", "look", session_id="s", options=limited(limit))
        check_story(events)
        for request in suite.model.requests:
            check_whole(request["messages"])
    check_whole(await suite.messages("s"))
    assert len(await suite.messages("s")) == 8 * 6


async def test_the_schema_in_words_stays_where_the_rest_is_left_out(opened: OpenSuite) -> None:
    suite = await opened(
        {"default": {"structured": {"ok": True}}},
        llms={"plain": {"structured_output": "instruction"}},
        agents={"b": {"llm": "plain", "output_schema": {"type": "object"}, "max_context_tokens": 400}},
    )
    for _ in range(5):
        events = await suite.story("b", LONG, session_id="s")
    assert len(trims(events)) == 1
    sent = suite.model.requests[-1]["messages"]
    assert "JSON Schema" in sent[0]["content"]
    assert [each["content"] for each in sent].count(sent[0]["content"]) == 1
    assert len(sent) < 10


@pytest.mark.parametrize("wrong", [255, 0, -1])
async def test_a_limit_that_makes_no_sense_is_refused(opened: OpenSuite, wrong: int) -> None:
    suite = await opened()
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", options=limited(wrong))
    assert [each.field for each in refused.value.violations] == ["run.options.max_context_tokens"]


async def test_after_a_kill_the_model_is_sent_the_same(tmp_path: Path) -> None:
    rules = [
        {"when": {"user_contains": "stop", "last_role": "tool"}, "times": 1, "hang": True},
        {"when": {"user_contains": "stop", "last_role": "user"}, "tool_calls": [{"name": "tools__look"}]},
    ]
    async with open_processes(
        tmp_path,
        {"rules": rules, "default": {"text": LONG}},
        agents={"b": {"mcp_servers": ["tools"], "max_context_tokens": 500}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    ) as suite:
        for _ in range(3):
            await suite.story("a", LONG, session_id="s")
        run = await suite.client.runs.start("b", "stop", session_id="s")
        await until(lambda: len(suite.model.requests) == 5, "the model is asked with the result")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        check_story(events)
        assert len(trims(events)) == 1
        before, after = suite.model.requests[-2:]
        assert before["messages"] == after["messages"]
        assert len(after["messages"]) < 9
