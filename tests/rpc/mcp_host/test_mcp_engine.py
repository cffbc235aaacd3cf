"""The engine's toolbox over a real host: what servers ask in the middle of its calls."""

import asyncio
import contextvars
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import uvloop

from retinue import errors
from retinue.client import Access, ServiceChannel, open_channel
from retinue_engine.definition import Server
from retinue_engine.host.toolbox import HostToolbox, open_host_toolbox
from retinue_engine.tools import (
    Elicitation,
    ElicitationAnswer,
    NoServerAnswer,
    OnRequest,
    Sampling,
    SamplingAnswer,
    ServerAnswer,
    ServerAsks,
    Tool,
    ToolAnswer,
    ToolRequest,
)
from retinue_mcp_host.calls import server_requests
from tests.suite import SOON_S

from .asking import asks, elicitation
from .hosting import Host, Registry, open_host, until

RUN: contextvars.ContextVar[str] = contextvars.ContextVar("run")


@pytest.fixture
async def toolbox(host: Host) -> AsyncIterator[HostToolbox]:
    async with open_host_toolbox(host.channel) as opened:
        yield opened


async def call(
    toolbox: HostToolbox,
    server: str,
    tool: str,
    arguments: Any,
    on_request: OnRequest | None,
    *,
    run_id: str = "run-1",
    limit_s: float = 60.0,
) -> ToolAnswer:
    """Call a tool as an agent does."""
    called = Tool(Server(server, 1, limit_s), tool, read_only=False, idempotent=False)
    request = ToolRequest("default", called, json.dumps(arguments), "key", run_id)
    return await toolbox.call_tool(request, lambda *_: None, on_request)


class Waiting:
    """Takes questions and answers none."""

    def __init__(self) -> None:
        self.asked: list[ServerAsks] = []
        self.cancelled = 0

    async def __call__(self, asked: ServerAsks) -> ServerAnswer:
        self.asked.append(asked)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError("nobody sets it")


async def test_a_question_is_asked_in_the_context_of_its_call_and_answered(
    host: Host, toolbox: HostToolbox
) -> None:
    host.stdio("asking", "asking_server.py", allow_sampling=True)
    asked: list[tuple[str, ServerAsks]] = []

    async def on_request(each: ServerAsks) -> ServerAnswer:
        asked.append((RUN.get("none"), each))
        if isinstance(each, Elicitation):
            return ElicitationAnswer("accept", '{"colour": "red"}')
        return SamplingAnswer(
            '{"role": "assistant", "model": "m", "content": {"type": "text", "text": "Hi"}}'
        )

    RUN.set("mine")
    answer = await call(toolbox, "asking", "elicit", {"question": "Which?"}, on_request)
    assert answer.text == "accept red"
    answer = await call(toolbox, "asking", "sample", {"prompt": "Hello"}, on_request)
    assert answer.text == "m: Hi"
    (first_run, first), (second_run, second) = asked
    assert (first_run, second_run) == ("mine", "mine")
    assert isinstance(first, Elicitation)
    assert (first.message, first.server) == ("Which?", "asking")
    assert "colour" in json.loads(first.schema_json)["properties"]
    assert first.expire_us > 0
    assert isinstance(second, Sampling)
    assert json.loads(second.params_json)["maxTokens"] == 10
    assert second.server == "asking"


async def test_without_anybody_to_ask_the_server_is_declined(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("asking", "asking_server.py")
    assert (await call(toolbox, "asking", "elicit", {"question": "Which?"}, None)).text == "decline"


async def test_no_answer_is_told_to_the_server(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("asking", "asking_server.py", allow_sampling=True)

    async def on_request(_: ServerAsks) -> ServerAnswer:
        return NoServerAnswer("the budget is used up")

    answer = await call(toolbox, "asking", "sample", {"prompt": "Hello"}, on_request)
    assert answer.text == "refused: the budget is used up"


async def test_the_end_of_the_call_ends_its_questions(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("raw", "raw_server.py")
    waiting = Waiting()
    questions = asks(*(elicitation() for _ in range(3)))
    calling = asyncio.create_task(call(toolbox, "raw", "ask", questions, waiting))
    await until(lambda: len(waiting.asked) == 3, "the questions")
    calling.cancel()
    await asyncio.wait([calling])
    assert calling.cancelled()
    assert waiting.cancelled == 3
    await until(lambda: host.lines("cancelled"), "the cancel reached the server")


async def test_a_question_that_is_over_is_cancelled_while_the_calls_limit_stands_still(
    host: Host, toolbox: HostToolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_requests, "ELICITATION_S", 2.5)
    host.stdio("asking", "asking_server.py")
    # Connected before: that counts in the limit.
    await call(toolbox, "asking", "roots", {}, None)
    waiting = Waiting()
    answer = await call(toolbox, "asking", "elicit", {"question": "Which?"}, waiting, limit_s=2.0)
    assert answer.text == "decline"
    assert waiting.cancelled == 1


async def test_the_limit_of_a_call_runs_again_after_its_question(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("asking", "asking_server.py")

    async def on_request(_: ServerAsks) -> ServerAnswer:
        return ElicitationAnswer("decline")

    with pytest.raises(errors.McpTimeoutError, match="the MCP host said nothing"):
        await call(toolbox, "asking", "elicit_and_hang", {"question": "?"}, on_request, limit_s=3.0)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (errors.BudgetExceededError("used up"), errors.BudgetExceededError),
        (TimeoutError("a bug"), errors.InternalError),
    ],
)
async def test_an_error_of_who_is_asked_ends_the_call_here_and_at_the_server(
    host: Host, toolbox: HostToolbox, raised: Exception, expected: type[Exception]
) -> None:
    host.stdio("raw", "raw_server.py")

    async def on_request(_: ServerAsks) -> ServerAnswer:
        raise raised

    with pytest.raises(expected):
        await call(toolbox, "raw", "ask", asks(elicitation()), on_request)
    await until(lambda: host.lines("cancelled"), "the cancel reached the server")


async def test_an_answer_that_the_host_does_not_take_ends_the_call(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("raw", "raw_server.py")

    async def on_request(_: ServerAsks) -> ServerAnswer:
        return ElicitationAnswer("accept", "no JSON")

    with pytest.raises(errors.InvalidArgumentError, match="must be a JSON object"):
        await call(toolbox, "raw", "ask", asks(elicitation()), on_request)


async def test_two_runs_on_one_server_see_their_own_calls_only(host: Host, toolbox: HostToolbox) -> None:
    host.stdio("raw", "raw_server.py")
    waiting, other = Waiting(), Waiting()
    first = asyncio.create_task(call(toolbox, "raw", "ask", asks(elicitation()), waiting))
    await until(lambda: waiting.asked, "the first question")
    answer = await call(toolbox, "raw", "ask", asks(elicitation() | {"id": "b"}), other, run_id="run-2")
    assert json.loads(answer.text) == {"b": {"action": "decline"}}
    assert len(waiting.asked) == 1
    assert not other.asked
    first.cancel()
    await asyncio.wait([first])


async def test_the_end_of_the_host_ends_the_questions(registry: Registry, tmp_path: Path) -> None:
    waiting = Waiting()
    async with AsyncExitStack() as stack:
        hosting = await stack.enter_async_context(AsyncExitStack())
        host = await hosting.enter_async_context(open_host(registry, tmp_path))
        channel = await stack.enter_async_context(open_channel("MCP host", host.channel.address, Access()))
        toolbox = await stack.enter_async_context(open_host_toolbox(channel))
        host.stdio("raw", "raw_server.py")
        calling = asyncio.create_task(call(toolbox, "raw", "ask", asks(elicitation()), waiting))
        await until(lambda: waiting.asked, "the question")
        await hosting.aclose()
        with pytest.raises(errors.RetinueError):
            await calling
        assert waiting.cancelled == 1


def test_the_toolbox_closes_at_whatever_moment_its_host_cannot_be_reached() -> None:
    async def close(channel: ServiceChannel, after_s: float, busy_s: float) -> None:
        async with open_host_toolbox(channel):
            end = time.perf_counter() + after_s
            while time.perf_counter() < end:  # noqa: ASYNC110 - there is nothing to wait for
                await asyncio.sleep(0)
            # Meanwhile the call fails, and nobody has looked yet.
            time.sleep(busy_s)  # noqa: ASYNC251 - it stands for other work of the loop

    async def close_often() -> None:
        for number in range(60):
            async with open_channel("MCP host", "127.0.0.1:1", Access()) as channel:
                await asyncio.wait_for(close(channel, number * 1e-4, 0.02), SOON_S)

    # On the services' own loop.
    uvloop.run(close_often())
