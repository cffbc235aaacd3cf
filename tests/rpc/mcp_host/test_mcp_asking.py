"""What servers ask in the middle of tool calls, and what they are answered, over both transports."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors
from retinue.mcphost.v1 import server_request_pb2
from retinue_mcp_host.calls import server_requests

from .asking import CANCEL, DECLINE, accept, answer, calling, failed, is_open, sampled, text, until_dropped
from .hosting import Host, serve_http
from .test_mcp_streams import cancel, open_stream, start

pytestmark = pytest.mark.xdist_group("mcp_asking")

QUESTION = {"question": "Which colour?"}


@pytest.fixture(scope="module")
def asking_url() -> Iterator[str]:
    """The asking server over HTTP, one for all tests."""
    with asyncio.Runner() as runner:
        serving = serve_http("asking_server.py")
        url, _ = runner.run(serving.__aenter__())
        yield url
        runner.run(serving.__aexit__(None, None, None))


@pytest.fixture(params=["stdio", "http"])
def asking(request: pytest.FixtureRequest, host: Host, asking_url: str) -> Any:
    """Stores the asking server, over each transport."""
    if request.param == "stdio":
        return lambda **spec: host.stdio("asking", "asking_server.py", **spec)
    return lambda **spec: host.http("asking", asking_url, **spec)


@pytest.mark.parametrize(
    ("said", "heard"),
    [(accept({"colour": "réd"}), "accept réd"), (DECLINE, "decline"), (CANCEL, "cancel")],
)
async def test_an_elicitation_comes_out_of_the_call_and_its_answer_reaches_the_server(
    host: Host, asking: Any, said: Any, heard: str
) -> None:
    asking()
    async with calling(host, "asking", "elicit", QUESTION) as (asked, end):
        request = await asked.request()
        assert request.elicitation.message == "Which colour?"
        assert json.loads(request.elicitation.schema_json)["properties"].keys() == {"colour", "shade"}
        assert request.expire_time.ToSeconds() > 0
        await asked.answer(**said)
        assert text(await end) == heard
    assert len(asked.requests) == 1
    assert not asked.closed


async def test_sampling_comes_out_of_the_call_where_the_server_may_ask(host: Host, asking: Any) -> None:
    asking(allow_sampling=True)
    async with calling(host, "asking", "sample", {"prompt": "Hi"}) as (asked, end):
        params = json.loads((await asked.request()).sampling.params_json)
        assert params["messages"][0]["content"]["text"] == "Hi"
        assert params["maxTokens"] == 10
        await asked.answer(**sampled("Hello"))
        assert text(await end) == "m: Hello"


async def test_sampling_is_refused_where_the_server_may_not_ask(host: Host, asking: Any) -> None:
    asking()
    async with calling(host, "asking", "sample", {"prompt": "Hi"}) as (asked, end):
        assert "allow_sampling is not set" in text(await end)
    assert not asked.requests


async def test_who_can_not_be_asked_is_not(host: Host, asking: Any) -> None:
    asking(allow_sampling=True)
    nobody = {"elicitation": False, "sampling": False}
    async with calling(host, "asking", "elicit", QUESTION, **nobody) as (asked, end):
        assert text(await end) == "decline"
        assert not asked.requests
    async with calling(host, "asking", "sample", {"prompt": "Hi"}, **nobody) as (asked, end):
        assert "cannot be asked" in text(await end)
        assert not asked.requests


async def test_a_failure_to_answer_is_told_to_the_server(host: Host, asking: Any) -> None:
    asking(allow_sampling=True)
    async with calling(host, "asking", "sample", {"prompt": "Hi"}) as (asked, end):
        await asked.answer(**failed("the budget is used up"))
        assert text(await end) == "refused: the budget is used up"


async def test_nobody_answers_and_the_call_goes_on_at_the_deadline(
    host: Host, asking: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_requests, "ELICITATION_S", 2.5)
    monkeypatch.setattr(server_requests, "SAMPLING_S", 2.5)
    # The call's own clock is shorter, and stands still meanwhile.
    asking(allow_sampling=True, call_timeout=Duration(seconds=2))
    async with calling(host, "asking", "elicit", QUESTION) as (asked, end):
        assert text(await end) == "decline"
        assert asked.closed == [asked.requests[0].request_id]
        with pytest.raises(errors.McpServerRequestNotFoundError, match="its time is over"):
            await asked.answer(**DECLINE)
    async with calling(host, "asking", "sample", {"prompt": "Hi"}) as (asked, end):
        assert text(await end) == "refused: nobody answered within 2.5 s"


async def test_the_clock_of_the_call_runs_again_after_the_answer(host: Host, asking: Any) -> None:
    asking(call_timeout=Duration(seconds=2))
    async with calling(host, "asking", "elicit_and_hang", QUESTION) as (asked, end):
        await asked.answer(**accept({"colour": "red"}))
        with pytest.raises(errors.McpTimeoutError, match="elicit_and_hang"):
            await end


async def test_servers_are_told_what_is_offered(host: Host, asking: Any) -> None:
    asking()
    offered = json.loads(text(await host.call("asking", "offered")))
    assert offered == {"elicitation": {"form": {}}}
    asking(allow_sampling=True)
    offered = json.loads(text(await host.call("asking", "offered")))
    assert offered == {"elicitation": {"form": {}}, "sampling": {}}
    assert text(await host.call("asking", "roots")) == "0"


async def test_an_answer_of_the_wrong_kind_leaves_the_question_open(host: Host, asking: Any) -> None:
    asking(allow_sampling=True)
    elicitation = server_request_pb2.ElicitationAnswer
    async with calling(host, "asking", "elicit", QUESTION) as (asked, end):
        for wrong, why in (
            (sampled("red"), "must be one to an elicitation"),
            ({}, "must be set"),
            ({"elicitation": elicitation()}, "must be accept, decline or cancel"),
            ({"elicitation": elicitation(action=1, content_json="[]")}, "must be a JSON object"),
            ({"elicitation": elicitation(action=1, content_json="{")}, "must be a JSON object"),
        ):
            with pytest.raises(errors.InvalidArgumentError, match=why):
                await asked.answer(**wrong)
        await asked.answer(**accept({"colour": "red"}))
        assert text(await end) == "accept red"
        with pytest.raises(errors.McpServerRequestNotFoundError):
            await asked.answer(**accept({"colour": "red"}))
    sampling = server_request_pb2.SamplingAnswer
    async with calling(host, "asking", "sample", {"prompt": "Hi"}) as (asked, end):
        for wrong, why in (
            (DECLINE, "must be one to sampling"),
            ({"sampling": sampling(result_json='{"role": "assistant"}')}, "role, content and model"),
            ({"sampling": sampling(result_json="")}, "must be a JSON object"),
        ):
            with pytest.raises(errors.InvalidArgumentError, match=why):
                await asked.answer(**wrong)
        await asked.answer(**sampled("Hello"))
        assert text(await end) == "m: Hello"
    with pytest.raises(errors.McpServerRequestNotFoundError):
        await answer(host, "nonsense", **DECLINE)


async def test_a_cancelled_call_drops_what_was_asked_in_it(host: Host, asking: Any) -> None:
    asking()
    async with calling(host, "asking", "elicit", QUESTION) as (asked, _):
        request = await asked.request()
        assert await is_open(host, request.request_id)
    await until_dropped(host, request.request_id)


async def test_calls_of_one_stream_are_asked_each_for_itself(host: Host, asking: Any) -> None:
    asking()
    async with open_stream(host) as stream:
        for number in (1, 2):
            command = start(number, "asking", "elicit", json.dumps({"question": f"Question {number}?"}))
            command.start.accepts_elicitation = True
            command.start.run_id = "run-1"
            await stream.send(command)
            # One after the other: over pipes the newest call of the run is asked.
            await stream.until(lambda number=number: len(stream.updates) == number, "the question")
        questions = {update.call_id: update.request for update in stream.updates}
        assert [questions[number].elicitation.message for number in (1, 2)] == ["Question 1?", "Question 2?"]
        for number in (2, 1):
            await answer(host, questions[number].request_id, **accept({"colour": f"colour {number}"}))
        await stream.until(lambda: len(stream.updates) == 4, "both ends")
        assert {
            update.call_id: text(update.result)
            for update in stream.updates
            if update.WhichOneof("update") == "result"
        } == {1: "accept colour 1", 2: "accept colour 2"}


async def test_a_cancel_on_a_stream_drops_what_was_asked(host: Host, asking: Any) -> None:
    asking()
    async with open_stream(host) as stream:
        command = start(1, "asking", "elicit", json.dumps(QUESTION))
        command.start.accepts_elicitation = True
        await stream.send(command)
        await stream.until(lambda: stream.updates, "the question")
        await stream.send(cancel(1))
        await stream.until(lambda: len(stream.updates) == 2, "the end")
        with pytest.raises(errors.McpServerRequestNotFoundError):
            await answer(host, stream.updates[0].request.request_id, **DECLINE)


async def test_over_http_each_run_is_asked_what_its_own_call_brought_about(host: Host) -> None:
    async with serve_http("asking_server.py") as (url, _):
        host.http("asking", url)
        async with (
            calling(host, "asking", "elicit", {"question": "one?"}, run_id="run-1") as (one, one_end),
            calling(host, "asking", "elicit", {"question": "two?"}, run_id="run-2") as (two, two_end),
        ):
            assert (await one.request()).elicitation.message == "one?"
            assert (await two.request()).elicitation.message == "two?"
            await two.answer(**accept({"colour": "second"}))
            await one.answer(**accept({"colour": "first"}))
            assert (text(await one_end), text(await two_end)) == ("accept first", "accept second")


async def test_what_belongs_to_no_call_is_asked_of_the_only_run_there_is(host: Host) -> None:
    async with serve_http("asking_server.py") as (url, _):
        host.http("asking", url)
        async with calling(host, "asking", "elicit_aside", QUESTION) as (asked, end):
            await asked.answer(**accept({}))
            assert text(await end) == "accept"
        async with calling(host, "asking", "elicit", QUESTION, run_id="run-1") as (other, _):
            await other.request()
            async with calling(host, "asking", "elicit_aside", QUESTION, run_id="run-2") as (asked, end):
                assert text(await end) == "decline"
            assert len(other.requests) == 1
            assert not asked.requests


async def test_a_server_over_http_that_dies_takes_its_questions_along(host: Host) -> None:
    async with serve_http("asking_server.py") as (url, process):
        host.http("asking", url)
        async with calling(host, "asking", "elicit", QUESTION) as (asked, end):
            await asked.request()
            process.kill()
            with pytest.raises(errors.McpServerUnavailableError):
                await end
            with pytest.raises(errors.McpServerRequestNotFoundError):
                await asked.answer(**DECLINE)
            assert not asked.closed
