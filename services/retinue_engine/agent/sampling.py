"""Sampling: an MCP server asks the agent's model for text, within the run's budget."""

import json
import time
from collections.abc import Mapping
from typing import Any

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import RequestedToolCall
from retinue.errors import RetinueError
from retinue_engine.agent.budget import check_llm_call
from retinue_engine.agent.model_calls import count
from retinue_engine.agent.work import AgentRun
from retinue_engine.llm.model import ChatRequest, Generation
from retinue_engine.outcome import set_seconds
from retinue_engine.tools import NoServerAnswer, Sampling, SamplingAnswer, ServerAnswer

_STOP_REASONS = {"stop": "endTurn", "length": "maxTokens", "content_filter": "endTurn"}


async def sample(run: AgentRun, call: RequestedToolCall, asks: Sampling) -> ServerAnswer:
    """Ask the agent's first llm. What goes wrong is told to the server, which may do without.

    Raises BudgetExceededError where the run has nothing left.
    """
    try:
        params = json.loads(asks.params_json)
        messages = _messages(params)
    except (ValueError, KeyError, TypeError) as error:
        return NoServerAnswer(f"the sampling request cannot be read: {error}")
    check_llm_call(run)
    llm = run.agent.llms[0]
    means = run.work.means
    start = time.perf_counter()
    try:
        completion = await means.models.complete(
            llm.transport,
            llm.endpoint(means.allowed),
            ChatRequest(messages, (), _generation(params, llm.generation)),
            _unshown,
            protocol=llm.protocol,
        )
    except RetinueError as error:
        return NoServerAnswer(f"the model gave no answer: {error.message}")
    sampled = event_pb2.SamplingCompleted(
        call_id=call.call_id,
        server=asks.server,
        llm=llm.name,
        model=completion.model,
        text=completion.text,
    )
    set_seconds(sampled.duration, time.perf_counter() - start)
    count(sampled, completion, means.prices.price(llm.model, llm.price))
    run.emit(f"turn:{run.conversation.turn}", sampling_completed=sampled)
    result = {
        "role": "assistant",
        "content": {"type": "text", "text": completion.text},
        "model": completion.model,
        "stopReason": _STOP_REASONS.get(completion.finish_reason, "endTurn"),
    }
    return SamplingAnswer(json.dumps(result, ensure_ascii=False))


def _unshown(_text: str) -> None:
    """Watchers see a server's text when it is whole."""


def _messages(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """MCP's messages in the OpenAI format (MCP, sampling/createMessage)."""
    messages: list[dict[str, Any]] = []
    prompt = params.get("systemPrompt")
    if prompt:
        messages.append({"role": "system", "content": str(prompt)})
    for message in params["messages"]:
        content = message["content"]
        blocks = content if isinstance(content, list) else [content]
        role = "assistant" if message["role"] == "assistant" else "user"
        messages.append({"role": role, "content": [_part(block) for block in blocks]})
    return messages


def _part(block: Mapping[str, Any]) -> dict[str, Any]:
    if block["type"] == "text":
        return {"type": "text", "text": str(block["text"])}
    if block["type"] == "image":
        return {"type": "image_url", "image_url": {"url": f"data:{block['mimeType']};base64,{block['data']}"}}
    raise ValueError(f"content of type {str(block['type'])[:40]!r} cannot be shown to the model")


def _generation(params: Mapping[str, Any], own: Generation) -> Generation:
    """What the server wants, no longer than the agent's own answers may be."""
    wanted, most = params.get("maxTokens"), own.max_output_tokens
    limits = [each for each in (wanted, most) if isinstance(each, int) and each > 0]
    temperature = params.get("temperature")
    stop = params.get("stopSequences")
    return Generation(
        temperature=float(temperature) if isinstance(temperature, int | float) else own.temperature,
        top_p=own.top_p,
        max_output_tokens=min(limits, default=None),
        seed=own.seed,
        stop=tuple(str(each) for each in stop[:4]) if isinstance(stop, list) else own.stop,
    )
