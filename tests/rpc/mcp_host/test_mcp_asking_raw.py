"""What servers ask that no SDK would: floods, wrong params, wrong times, and questions of unknown calls."""

import json
import os
import signal
from typing import Any

import pytest

from retinue import errors
from retinue_mcp_host.calls import server_requests

from .asking import DECLINE, accept, answers_in, asks, calling, elicitation, is_open, text
from .hosting import Host, until

SAMPLE = "sampling/createMessage"


@pytest.mark.parametrize(("run_id", "other_id"), [("run-1", "run-2"), ("", ""), ("run-1", "")])
async def test_over_pipes_nobody_is_asked_while_calls_of_several_runs_are_under_way(
    host: Host, run_id: str, other_id: str
) -> None:
    host.stdio("raw", "raw_server.py", allow_sampling=True)
    async with calling(host, "raw", "hang", run_id=other_id) as (other, _):
        await until(lambda: host.lines("hanging"), "the other call is with the server")
        sampling = {"method": SAMPLE, "params": {"messages": [], "maxTokens": 1}}
        async with calling(host, "raw", "ask", asks(elicitation(), sampling), run_id=run_id) as (asked, end):
            declined, refused = answers_in(await end)
    assert declined == {"action": "decline"}
    assert refused["code"] == -1
    assert "several runs" in refused["message"]
    assert not asked.requests
    assert not other.requests


async def test_over_pipes_the_newest_call_of_the_run_that_can_be_asked_is_asked(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    run: dict[str, Any] = {"run_id": "run-1"}
    async with calling(host, "raw", "ask", asks(elicitation("first?")), **run) as (asked, end):
        await asked.request()
        second = asks(elicitation("second?") | {"id": "second"})
        async with calling(host, "raw", "ask", second, elicitation=False, **run) as (deaf, deaf_end):
            assert (await asked.request(1)).elicitation.message == "second?"
            assert not deaf.requests
            await asked.answer(1, **DECLINE)
            assert answers_in(await deaf_end) == [{"action": "decline"}]
        third = asks(elicitation("third?") | {"id": "third"})
        async with calling(host, "raw", "ask", third, **run) as (other, other_end):
            await other.answer(**accept({"n": 3}))
            assert answers_in(await other_end) == [{"action": "accept", "content": {"n": 3}}]
        await asked.answer(**accept({"n": 1}))
        assert answers_in(await end) == [{"action": "accept", "content": {"n": 1}}]


async def test_a_process_that_dies_takes_its_questions_along(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask", asks(elicitation())) as (asked, end):
        request = await asked.request()
        os.kill(host.pids()[0], signal.SIGKILL)
        with pytest.raises(errors.McpServerUnavailableError):
            await end
        assert not await is_open(host, request.request_id)
        assert not asked.closed


async def test_a_flood_of_questions_is_bounded(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    flood = asks(*(elicitation(f"{number}?") for number in range(500)))
    async with calling(host, "raw", "ask", flood) as (asked, end):
        await until(lambda: len(host.lines("answers")) == 492, "all but 8 are refused")
        for number in range(8):
            await asked.answer(number, **accept({"n": number}))
        answered = answers_in(await end)
    assert len(asked.requests) == 8
    assert sum("content" in each for each in answered) == 8
    refusals = [each for each in answered if "code" in each]
    assert len(refusals) == 492
    assert all("may ask 100 times" in each["message"] for each in refusals)


async def test_a_call_may_ask_so_many_times_and_no_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_requests, "MAX_REQUESTS", 3)
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask", asks(*(elicitation() for _ in range(5)))) as (asked, end):
        for number in range(3):
            await asked.answer(number, **DECLINE)
        answered = answers_in(await end)
    assert answered.count({"action": "decline"}) == 3
    assert sum(each.get("code") == -32600 for each in answered) == 2


MALFORMED: list[tuple[str, Any, int]] = [
    ("elicitation/create", None, -32602),
    ("elicitation/create", [], -32602),
    ("elicitation/create", {"message": "no schema"}, -32602),
    ("elicitation/create", {"message": 3, "requestedSchema": {}}, -32602),
    ("elicitation/create", {"message": "x", "requestedSchema": "{}"}, -32602),
    ("elicitation/create", {"message": "x", "mode": "url", "url": "https://x", "elicitationId": "1"}, -32602),
    (SAMPLE, {}, -32602),
    (SAMPLE, {"messages": "hello", "maxTokens": 1}, -32602),
    (SAMPLE, {"messages": [], "maxTokens": True}, -32602),
    (SAMPLE, {"messages": [], "maxTokens": 1, "tools": []}, -32602),
    ("tasks/list", {}, -32601),
]


async def test_malformed_questions_are_refused_and_harm_nothing(host: Host) -> None:
    host.stdio("raw", "raw_server.py", allow_sampling=True)
    requests = [{"method": method, "params": params} for method, params, _ in MALFORMED]
    async with calling(host, "raw", "ask", asks(*requests, elicitation())) as (asked, end):
        await asked.answer(**DECLINE)
        *refused, last = answers_in(await end)
    assert [each["code"] for each in refused] == [code for *_, code in MALFORMED]
    assert last == {"action": "decline"}
    assert len(asked.requests) == 1


async def test_an_id_that_is_in_use_is_refused(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    twice = asks(elicitation() | {"id": "same"}, elicitation("again?") | {"id": "same"})
    async with calling(host, "raw", "ask", twice) as (asked, end):
        (refused,) = answers_in(await end)
    assert refused["code"] == -32600
    assert len(asked.requests) == 1


@pytest.mark.parametrize(("size", "code"), [(2_000_000, -32602), (17_000_000, -32600)])
async def test_giant_questions_are_refused_and_the_call_goes_on(host: Host, size: int, code: int) -> None:
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask_hugely", {"size": size}) as (asked, end):
        (refused,) = answers_in(await end)
    assert refused["code"] == code
    assert not asked.requests


async def test_a_question_after_the_call_is_refused(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask_late", asks(elicitation())) as (asked, end):
        assert text(await end) == "done"
        (line,) = await until(lambda: host.lines("answers"), "the refusal")
    assert '"code": -32600' in line
    assert not asked.requests


async def test_a_question_of_a_call_that_was_cancelled_is_answered_with_an_error(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask", asks(elicitation())) as (asked, _):
        await asked.request()
    (line,) = await until(lambda: host.lines("answers"), "the refusal")
    assert "the tool call has ended" in line


async def test_what_a_server_takes_back_is_closed_and_the_call_goes_on(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with calling(host, "raw", "ask", asks(elicitation() | {"id": "mine"})) as (asked, end):
        request = await asked.request()
        await host.call("raw", "take_back", json.dumps({"id": "mine"}))
        await until(lambda: asked.closed == [request.request_id], "the question is closed")
        assert not await is_open(host, request.request_id)
        await host.call("raw", "take_back")
        assert text(await end) == "took it back"
    assert not host.lines("answers")
