"""Calls in rounds (revision 2026-07-28): a result asks, the call is made again with the answers."""

import json
from typing import Any

import pytest

from retinue import errors

from .asking import DECLINE, accept, calling, elicitation, failed, sampled, text
from .hosting import Host, serve_http, until

SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 3}}


async def test_over_http_a_result_that_asks_is_answered(host: Host) -> None:
    async with serve_http("asking_server.py", "--modern") as (url, _):
        host.http("asking", url, allow_sampling=True)
        async with calling(host, "asking", "choose") as (asked, end):
            assert (await asked.request()).elicitation.message == "Which colour?"
            await asked.answer(**accept({"colour": "red", "shade": 3}))
            assert text(await end) == "accept red"
        async with calling(host, "asking", "choose") as (asked, end):
            await asked.answer(**DECLINE)
            assert text(await end) == "decline"
        async with calling(host, "asking", "choose_name") as (asked, end):
            await asked.answer(**sampled("blue"))
            assert text(await end) == "m: blue"
        offered = json.loads(text(await host.call("asking", "offered")))
        assert offered == {"elicitation": {"form": {}}, "sampling": {}}


async def test_over_http_an_answer_out_of_shape_fails_the_call_alone(host: Host) -> None:
    async with serve_http("asking_server.py", "--modern") as (url, _):
        host.http("asking", url)
        async with calling(host, "asking", "choose") as (asked, end):
            await asked.answer(**accept({"colour": {"deep": True}}))
            with pytest.raises(errors.McpRequestRefusedError, match="out of shape"):
                await end
        async with calling(host, "asking", "choose") as (asked, end):
            await asked.answer(**DECLINE)
            assert text(await end) == "decline"


@pytest.fixture
def rounds(host: Host) -> Any:
    """Calls a tool that asks in the given rounds."""
    host.stdio("raw", "raw_server.py", "modern", allow_sampling=True)
    return lambda *each, **more: calling(host, "raw", "rounds", {"rounds": each}, **more)


async def test_all_questions_of_a_round_are_asked_at_once_and_answered_by_name(rounds: Any) -> None:
    requests = {"a": elicitation("a?"), "b": SAMPLE, "c": {"method": "roots/list"}}
    async with rounds({"inputRequests": requests}) as (asked, end):
        await asked.request(1)
        await asked.answer(1, **sampled("text"))
        await asked.answer(0, **accept({"n": 1.5}))
        answers = json.loads(text(await end))
    assert answers["a"] == {"action": "accept", "content": {"n": 1.5}}
    assert answers["b"]["content"] == {"type": "text", "text": "text"}
    assert answers["c"] == {"roots": []}


async def test_rounds_follow_one_another_and_belong_to_their_call(host: Host, rounds: Any) -> None:
    async with calling(host, "raw", "hang", run_id="another"):
        await until(lambda: host.lines("hanging"), "another run's call is with the server")
        two = ({"inputRequests": {"a": elicitation("a?")}}, {}, {"inputRequests": {"b": elicitation("b?")}})
        async with rounds(*two, run_id="mine") as (asked, end):
            await asked.answer(0, **DECLINE)
            await asked.answer(1, **accept({}))
            assert json.loads(text(await end)) == {"b": {"action": "accept", "content": {}}}
    assert [each.elicitation.message for each in asked.requests] == ["a?", "b?"]


async def test_a_round_without_answer_fails_the_call(rounds: Any) -> None:
    async with rounds({"inputRequests": {"a": SAMPLE, "b": elicitation()}}) as (asked, end):
        await asked.request(1)
        await asked.answer(0, **failed("no budget"))
        with pytest.raises(errors.McpRequestRefusedError, match="no budget"):
            await end


@pytest.mark.parametrize(
    "requests", [{"a": 3}, {"a": {}}, {"a": {"method": "elicitation/create", "params": {}}}]
)
async def test_a_round_out_of_shape_fails_the_call(rounds: Any, requests: Any) -> None:
    async with rounds({"inputRequests": requests}) as (asked, end):
        with pytest.raises(errors.McpRequestRefusedError, match="does not get what it asks for"):
            await end
    assert not asked.requests


@pytest.mark.parametrize("each", [{"inputRequests": [1]}, {"resultType": "later"}])
async def test_a_result_of_a_kind_that_is_not_known_fails_the_call(rounds: Any, each: Any) -> None:
    async with rounds(each) as (_, end):
        with pytest.raises(errors.McpProtocolError, match="asks back"):
            await end


async def test_rounds_without_end_fail_the_call(rounds: Any) -> None:
    async with rounds(*({"inputRequests": {"a": {"method": "roots/list"}}} for _ in range(11))) as (_, end):
        with pytest.raises(errors.McpProtocolError, match="more than 10 times"):
            await end
