"""Questions of one call: whatever ends them, nothing of them is kept."""

import asyncio
import contextlib

import pytest

from retinue.errors import McpServerRequestNotFoundError
from retinue_mcp_host.calls import server_requests
from retinue_mcp_host.calls.server_requests import Caller, Outcome, RefusedError, ServerRequests
from retinue_mcp_host.model import (
    Elicitation,
    ElicitationAnswer,
    ServerRequest,
    ServerRequestClosed,
    ToolCall,
)

QUESTION = Elicitation("?", "{}")
CALL = ToolCall("default", "server", 1, "tool", "{}", accepts_elicitation=True)

Told = list[ServerRequest | ServerRequestClosed]


async def settled(question: "asyncio.Future[Outcome]") -> None:
    """Wait for the end of a question, and for what is done about it."""
    await asyncio.wait([question])
    await asyncio.sleep(0)


@pytest.mark.parametrize("end", ["answer", "deadline", "take back", "end of the call"])
async def test_nothing_is_kept_of_a_question_that_has_ended(
    end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_requests, "ELICITATION_S", 0.01 if end == "deadline" else 60.0)
    requests = ServerRequests()
    told: Told = []
    caller = Caller(CALL, requests, told.append)
    async with asyncio.timeout(60.0) as clock:
        when = clock.when()
        assert when is not None
        caller.begin(clock)
        question = caller.ask(QUESTION, 3)
        assert clock.when() is None
        (request,) = told
        assert isinstance(request, ServerRequest)
        if end == "answer":
            requests.answer(request.request_id, ElicitationAnswer("accept", ""))
        elif end == "take back":
            question.cancel()
        elif end == "end of the call":
            caller.end()
        await settled(question)
        assert requests._waiting == {}
        assert caller._waiting == {}
        closed = told[1:] == [ServerRequestClosed(request.request_id)]
        assert closed is (end in ("deadline", "take back"))
        if end == "end of the call":
            assert isinstance(question.exception(), RefusedError)
        else:
            again = clock.when()
            assert again is not None
            assert again >= when
    with pytest.raises(McpServerRequestNotFoundError):
        requests.answer(request.request_id, ElicitationAnswer("decline", ""))


async def test_the_clock_stands_still_until_the_last_question_is_answered() -> None:
    requests = ServerRequests()
    told: Told = []
    caller = Caller(CALL, requests, told.append)
    async with asyncio.timeout(60.0) as clock:
        caller.begin(clock)
        questions = [caller.ask(QUESTION, 3) for _ in range(2)]
        for number, question in enumerate(questions):
            assert clock.when() is None
            request = told[number]
            requests.answer(request.request_id, ElicitationAnswer("decline", ""))
            await settled(question)
        assert clock.when() is not None


async def test_a_call_whose_time_is_over_asks_no_more() -> None:
    caller = Caller(CALL, ServerRequests(), lambda _: None)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0) as clock:
            caller.begin(clock)
            await asyncio.Event().wait()
    assert clock.expired()
    with pytest.raises(RefusedError, match="has ended"):
        caller.ask(QUESTION, 3)
