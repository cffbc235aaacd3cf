"""What an MCP server asks in the middle of a call: a person (elicitation), or a model (sampling)."""

import asyncio
import contextlib
import json

from retinue.engine.v1 import event_pb2, input_pb2
from retinue.engine.v1.event_pb2 import RequestedToolCall
from retinue.errors import ClaimLostError, RetinueError
from retinue_engine.agent.inputs import request_input
from retinue_engine.agent.sampling import sample
from retinue_engine.agent.work import AgentRun
from retinue_engine.tools import (
    Elicitation,
    ElicitationAnswer,
    NoServerAnswer,
    OnRequest,
    Sampling,
    ServerAnswer,
    ServerAsks,
    Tool,
)

NOT_ALLOWED = "the agent that calls may not be asked this"


def answering(run: AgentRun, call: RequestedToolCall, tool: Tool) -> OnRequest | None:
    """Who answers the server of a call; None where the agent's config allows no questions."""
    if not run.agent.asks_user and not tool.server.allow_sampling:
        return None
    one_by_one = asyncio.Lock()

    async def answer(asks: ServerAsks) -> ServerAnswer:
        if isinstance(asks, Sampling):
            if not tool.server.allow_sampling:
                return NoServerAnswer(NOT_ALLOWED)
            return await sample(run, call, asks)
        if not run.agent.asks_user:
            return ElicitationAnswer("decline")
        async with one_by_one:
            return await _elicit(run, call, asks)

    return answer


async def _elicit(run: AgentRun, call: RequestedToolCall, asks: Elicitation) -> ServerAnswer:
    question = input_pb2.Question(text=asks.message, schema_json=asks.schema_json, server=asks.server)
    try:
        input_id = request_input(run, call.call_id, question=question, expire_us=asks.expire_us)
    except ClaimLostError:
        raise
    except RetinueError as error:
        return NoServerAnswer(error.message)
    asked = run.conversation.asked[call.call_id]
    try:
        while asked.answer is None:
            await run.work.arrivals.next()
    except asyncio.CancelledError:
        # The call has ended, or the server waits no longer: nobody listens for the answer any more.
        expired = input_pb2.InputAnswer(expired=input_pb2.Expiry())
        over = event_pb2.InputReceived(input_id=input_id, answer=expired)
        with contextlib.suppress(ClaimLostError):
            run.emit(f"turn:{run.conversation.turn}", input_received=over)
        raise
    if asked.answer.HasField("value_json"):
        content = asked.answer.value_json
        if isinstance(json.loads(content), dict):
            return ElicitationAnswer("accept", content)
    return ElicitationAnswer("cancel" if asked.answer.HasField("expired") else "decline")
