"""Asking a model: once more where it failed for a passing reason, the next one where it is lost."""

import asyncio
import random
import time
from typing import NamedTuple

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2
from retinue.errors import LlmError
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.tool_calls import Emit
from retinue_engine.definition import AgentDefinition, LlmDefinition
from retinue_engine.journal import Journal
from retinue_engine.llm.model import ChatRequest, Completion
from retinue_engine.llm.pricing import PriceTable
from retinue_engine.llm.routing import Models
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.tools import ToolList

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 20.0
"""Of the waits that double with each failure."""

LONGEST_RETRY_AFTER_S = 60.0
"""A provider that asks for more patience than this has, for a run, failed for good."""


class _Next(NamedTuple):
    """What is asked after a failure, and after how many seconds."""

    llm: LlmDefinition
    delay_s: float


class ModelCalls:
    """The LLM calls of one agent run."""

    def __init__(
        self,
        *,
        run_id: str,
        agent: AgentDefinition,
        conversation: Conversation,
        journal: Journal,
        models: Models,
        prices: PriceTable,
        emit: Emit,
    ) -> None:
        self._run_id = run_id
        self._llms = agent.llms
        self._conversation = conversation
        self._journal = journal
        self._models = models
        self._emit = emit
        self._endpoints = {llm.name: llm.endpoint() for llm in agent.llms}
        self._prices = {llm.name: prices.price(llm.model, llm.price) for llm in agent.llms}

    def discard_open(self) -> None:
        """Say that an answer which an engine's stop cut off does not count."""
        if self._conversation.open_turn:
            discarded = event_pb2.MessageDiscarded(
                from_sequence=self._conversation.open_turn,
                reason="the engine stopped while the model was answering; the model is asked again",
                next_llm=self._conversation.asked_llm,
            )
            self._emit(f"turn:{self._conversation.turn}", message_discarded=discarded)

    async def ask(self, tools: ToolList) -> None:
        """Ask for the next answer. Raises the last LlmError where no llm gives one."""
        turn = self._conversation.turns + 1
        while True:
            llm = self._asked()
            try:
                await self._try(turn, llm, tools)
            except LlmError as error:
                follows = self._after(llm, error)
                if follows is None:
                    raise
                self._discard(turn, error, follows)
                await asyncio.sleep(follows.delay_s)
            else:
                return

    def _asked(self) -> LlmDefinition:
        name = self._conversation.next_llm
        return next((llm for llm in self._llms if llm.name == name), self._llms[0])

    def _after(self, llm: LlmDefinition, error: LlmError) -> _Next | None:
        failures = self._conversation.failures
        wait_s = min(FIRST_WAIT_S * 2**failures, LONGEST_WAIT_S) * random.uniform(0.5, 1)  # noqa: S311 - spreads callers
        retry_after_s = float(error.facts.get("retry_after_s", 0))
        if error.retryable and failures < llm.max_retries and retry_after_s <= LONGEST_RETRY_AFTER_S:
            return _Next(llm, max(wait_s, retry_after_s))
        place = self._llms.index(llm) + 1
        return _Next(self._llms[place], 0.0) if place < len(self._llms) else None

    def _discard(self, turn: int, error: LlmError, follows: _Next) -> None:
        discarded = event_pb2.MessageDiscarded(
            from_sequence=self._conversation.open_turn,
            reason=error.message,
            error=run_error(error),
            next_llm=follows.llm.name,
        )
        set_seconds(discarded.delay, follows.delay_s)
        self._emit(f"turn:{turn}", message_discarded=discarded)

    async def _try(self, turn: int, llm: LlmDefinition, tools: ToolList) -> None:
        path = f"turn:{turn}"
        self._emit(path, turn_started=event_pb2.TurnStarted(turn=turn, llm=llm.name, model=llm.model))
        await self._journal.confirm_claim()
        start = time.perf_counter()
        first_text: float | None = None
        emit_text, run_id = self._journal.emit_text, self._run_id

        def on_text(text: str) -> None:
            nonlocal first_text
            if first_text is None:
                first_text = time.perf_counter()
            emit_text(run_id, path, text)

        request = ChatRequest(self._conversation.messages, tools.functions, llm.generation)
        completion = await self._models.complete(
            llm.transport, self._endpoints[llm.name], request, on_text, protocol=llm.protocol
        )
        message = self._message(llm, completion)
        set_seconds(message.duration, time.perf_counter() - start)
        if first_text is not None:
            set_seconds(message.time_to_first_text, first_text - start)
        self._emit(path, message_completed=message)

    def _message(self, llm: LlmDefinition, completion: Completion) -> event_pb2.MessageCompleted:
        message = event_pb2.MessageCompleted(
            text=completion.text, finish_reason=completion.finish_reason, model=completion.model
        )
        seen: set[str] = set()
        for call in completion.tool_calls:
            call_id = _unique(call.call_id, seen)
            message.tool_calls.add(call_id=call_id, name=call.name, arguments_json=call.arguments_json)
        usage = completion.usage
        if usage is None:
            message.cost.unknown = True
            return message
        message.usage.CopyFrom(
            Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cached_input_tokens=usage.cached_input_tokens,
                reasoning_tokens=usage.reasoning_tokens,
            )
        )
        cost = self._prices[llm.name].cost(usage)
        message.cost.CopyFrom(Cost(unknown=True) if cost is None else Cost(nano_usd=cost))
        return message


def _unique(call_id: str, seen: set[str]) -> str:
    """The id, changed where the model gave it twice: results must find their calls."""
    made, number = call_id, 2
    while made in seen:
        made, number = f"{call_id}-{number}", number + 1
    seen.add(made)
    return made
