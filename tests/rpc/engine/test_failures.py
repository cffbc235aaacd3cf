"""What goes wrong with models: the run fails with a reason and words that help, and nothing else is hurt."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.suite import Suite, check_story, kinds

OpenSuite = Callable[..., Awaitable[Suite]]

FAILURES: list[tuple[str, dict[str, Any], int, str]] = [
    ("401", {"error": {"status": 401, "message": "bad key"}}, pb.ERROR_REASON_LLM_UNAUTHENTICATED, "key"),
    ("403", {"error": {"status": 403, "message": "no"}}, pb.ERROR_REASON_LLM_UNAUTHENTICATED, "key"),
    (
        "429",
        {"error": {"status": 429, "message": "slow down", "retry_after": 7}},
        pb.ERROR_REASON_LLM_RATE_LIMITED,
        "slow down",
    ),
    ("500", {"error": {"status": 500, "message": "oops"}}, pb.ERROR_REASON_LLM_UNAVAILABLE, "500"),
    ("400", {"error": {"status": 400, "message": "no such"}}, pb.ERROR_REASON_LLM_INVALID_REQUEST, "no such"),
    ("garbage", {"garbage": "<html>hello</html>"}, pb.ERROR_REASON_LLM_INVALID_RESPONSE, "scripted"),
    ("cut", {"text": "hello world", "chunk_size": 2, "cut": 3}, pb.ERROR_REASON_LLM_UNAVAILABLE, "broke off"),
    ("hang", {"hang": True}, pb.ERROR_REASON_LLM_TIMEOUT, "0.3"),
    (
        "context",
        {"error": {"status": 400, "message": "too long", "code": "context_length_exceeded"}},
        pb.ERROR_REASON_LLM_CONTEXT_EXCEEDED,
        "",
    ),
]


@pytest.mark.parametrize("transport", ["direct", "litellm"])
@pytest.mark.parametrize(
    ("answer", "reason", "words"), [each[1:] for each in FAILURES], ids=[f[0] for f in FAILURES]
)
async def test_a_model_that_fails_fails_the_run_and_says_why(
    opened: OpenSuite,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    reason: int,
    words: str,
    transport: str,
) -> None:
    monkeypatch.setenv("KEY_OF_THE_TEST", "sk-secret-of-test")
    timeout = "300ms" if "hang" in answer else "30s"
    suite = await opened(
        {"default": answer},
        llms={"bad": {"transport": transport, "timeout": timeout, "api_key": "${env:KEY_OF_THE_TEST}"}},
        agents={"b": {"llm": "bad"}},
    )
    events = await suite.story("b", session_id="s")
    check_story(events)
    result = events[-1].run_finished.result
    assert (result.state, result.error.reason) == (run_pb2.RUN_STATE_FAILED, reason), result.error
    assert words in result.error.message
    assert result.error.metadata["model"] == "scripted"
    assert "sk-secret-of-test" not in str(events)
    assert (result.output, result.turns) == ("", 0)
    run = await suite.client.runs.get(events[0].run_id)
    assert (run.state, run.result) == (run_pb2.RUN_STATE_FAILED, result)
    assert run.HasField("end_time")
    assert await suite.messages("s") == []


async def test_a_model_that_nobody_serves_is_unavailable(opened: OpenSuite) -> None:
    suite = await opened(llms={"gone": {"base_url": "http://127.0.0.1:1/v1"}}, agents={"b": {"llm": "gone"}})
    result = await suite.result("b")
    assert result.error.reason == pb.ERROR_REASON_LLM_UNAVAILABLE
    assert "127.0.0.1:1" in result.error.message


async def test_one_bad_model_hurts_no_other_run(opened: OpenSuite) -> None:
    suite = await opened(
        {
            "rules": [
                {"when": {"user_contains": "bad"}, "error": {"status": 500}},
                {"when": {"user_contains": "cut"}, "text": "hello", "chunk_size": 1, "cut": 2},
            ],
            "default": {"text": "ok"},
        }
    )
    messages = ["bad", "good", "cut"] * 20
    results = await asyncio.gather(*(suite.result(message=each) for each in messages))
    for message, result in zip(messages, results, strict=True):
        expected = run_pb2.RUN_STATE_SUCCEEDED if message == "good" else run_pb2.RUN_STATE_FAILED
        assert result.state == expected


async def test_an_answer_larger_than_an_event_fails_the_run_and_ends_it(opened: OpenSuite) -> None:
    suite = await opened({"default": {"chunks": ["x" * 100_000 for _ in range(12)]}})
    events = await suite.story()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    result = events[-1].run_finished.result
    assert result.error.reason == pb.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert int(result.error.metadata["size_bytes"]) > int(result.error.metadata["limit_bytes"])


async def test_a_run_whose_last_words_fill_an_event_ends_all_the_same(opened: OpenSuite) -> None:
    # The answer just fits into its event; with the error beside it, it fits no more.
    text = "x" * (1024 * 1024 - 1024 - 400)
    script = {"default": {"text": text, "chunk_size": 100_000, "tool_calls": [{"name": "nothing"}]}}
    suite = await opened(script, agents={"b": {"max_iterations": 1}})
    events = await suite.story("b")
    check_story(events)
    result = events[-1].run_finished.result
    assert result.error.reason == pb.ERROR_REASON_MAX_ITERATIONS_REACHED
    assert result.output[:1000] == text[:1000]


async def test_a_large_answer_comes_whole(opened: OpenSuite) -> None:
    text = "".join(f"{n} äö€𝄞 " for n in range(40_000))
    suite = await opened({"default": {"text": text, "chunk_size": 30_000}})
    events = await suite.story(session_id="s")
    check_story(events)
    assert events[-1].run_finished.result.output == text
    assert all(len(event.text_delta.text) <= 64 * 1024 for event in events)
    assert (await suite.messages("s"))[-1]["content"] == text


async def test_an_empty_answer_is_asked_for_again_once(opened: OpenSuite) -> None:
    suite = await opened({"turns": [{"text": " "}, {"text": "here"}]})
    events = await suite.story()
    assert kinds(events)[2:6] == ["text_delta", "message_completed", "stall_noticed", "turn_started"]
    assert events[4].stall_noticed.stall == event_pb2.STALL_EMPTY_ANSWER
    assert events[-1].run_finished.result.output == "here"


async def test_a_model_that_goes_on_answering_nothing_fails_the_run(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": ""}})
    events = await suite.story()
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert result.error.reason == pb.ERROR_REASON_RUN_STALLED
    assert result.error.metadata["stall"] == "empty_answer"
    assert result.stop_reason == run_pb2.STOP_REASON_STALLED
    assert result.turns == 2
