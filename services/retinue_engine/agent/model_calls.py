"""Asking a model: once more where it failed for a passing reason, the next one where it is lost."""

import asyncio
import random
import time
from typing import Any, NamedTuple

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2
from retinue.errors import LlmError
from retinue_engine.agent.attachments import with_bytes
from retinue_engine.agent.context import plan_trim
from retinue_engine.agent.output import OutputSchema
from retinue_engine.agent.toolset import ToolSet
from retinue_engine.agent.work import AgentRun
from retinue_engine.definition import LlmDefinition
from retinue_engine.llm.model import ChatRequest, Completion
from retinue_engine.llm.pricing import Price
from retinue_engine.outcome import run_error, set_seconds

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 20.0
"""Of the waits that double with each failure."""

LONGEST_RETRY_AFTER_S = 60.0
"""A provider that asks for more patience than this has, for a run, failed for good."""


MAX_REASONING = 128 * 1024
"""Most characters of a model's thoughts beside its answer; the deltas have them whole."""


class _Next(NamedTuple):
    """What is asked after a failure, and after how many seconds."""

    llm: LlmDefinition
    delay_s: float


class ModelCalls:
    """The LLM calls of one agent run."""

    def __init__(self, run: AgentRun, schema: OutputSchema | None) -> None:
        self._run = run
        self._schema = schema
        self._llms = run.agent.llms
        self._conversation = run.conversation
        self._endpoints = {llm.name: llm.endpoint(run.work.means.allowed) for llm in self._llms}
        prices = run.work.means.prices
        self._prices = {llm.name: prices.price(llm.model, llm.price) for llm in self._llms}

    def discard_open(self) -> None:
        """Say that an answer which an engine's stop cut off does not count."""
        if self._conversation.open_turn:
            discarded = event_pb2.MessageDiscarded(
                from_sequence=self._conversation.open_turn,
                reason="the engine stopped while the model was answering; the model is asked again",
                next_llm=self._conversation.asked_llm,
            )
            self._run.emit(f"turn:{self._conversation.turn}", message_discarded=discarded)

    async def ask(self, tools: ToolSet) -> None:
        """Ask for the next answer. Raises the last LlmError where no llm gives one."""
        turn = self._conversation.turns + 1
        if self._run.agent.max_context_tokens is not None:
            self._trim(turn, self._run.agent.max_context_tokens)
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

    def _trim(self, turn: int, limit: int) -> None:
        conversation = self._conversation
        question = conversation.question - conversation.omitted
        trim = plan_trim(self._sent(), conversation.first, limit, keep_from=question)
        if trim is not None and trim.omitted:
            trimmed = event_pb2.ContextTrimmed(
                omitted_messages=conversation.omitted + trim.omitted,
                tokens_before=trim.tokens_before,
                tokens_after=trim.tokens_after,
            )
            self._run.emit(f"turn:{turn}", context_trimmed=trimmed)

    def _sent(self) -> list[dict[str, Any]]:
        """The conversation without what is left out."""
        conversation = self._conversation
        if not conversation.omitted:
            return conversation.messages
        first = conversation.first
        return conversation.messages[:first] + conversation.messages[first + conversation.omitted :]

    async def _request(self, llm: LlmDefinition, tools: ToolSet) -> ChatRequest:
        messages = self._sent()
        if any(isinstance(message.get("content"), list) for message in messages):
            # What came with the last results is stored with their record.
            await self._run.work.journal.commit()
            messages = await with_bytes(messages, self._run.work.find_blob)
        if self._schema is None:
            return ChatRequest(messages, tools.functions, llm.generation)
        models = self._run.work.means.models
        native = await models.native_output(
            llm.transport, llm.model, protocol=llm.protocol, mode=llm.structured_output
        )
        if native:
            return ChatRequest(messages, tools.functions, llm.generation, self._schema.schema)
        prompt = self._run.agent.system_prompt
        text = f"{prompt}\n\n{self._schema.instruction}" if prompt else self._schema.instruction
        rest = messages[self._conversation.first :]
        return ChatRequest([{"role": "system", "content": text}, *rest], tools.functions, llm.generation)

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
        self._run.emit(f"turn:{turn}", message_discarded=discarded)

    async def _try(self, turn: int, llm: LlmDefinition, tools: ToolSet) -> None:
        run, step = self._run, f"turn:{turn}"
        run.emit(step, turn_started=event_pb2.TurnStarted(turn=turn, llm=llm.name, model=llm.model))
        journal = run.work.journal
        request = await self._request(llm, tools)
        await journal.confirm_claim()
        start = time.perf_counter()
        first_text: float | None = None
        run_id, path = run.run_id, run.place(step)

        def on_text(text: str) -> None:
            nonlocal first_text
            if first_text is None:
                first_text = time.perf_counter()
            journal.emit_text(run_id, path, text)

        def on_reasoning(text: str) -> None:
            journal.emit_reasoning(run_id, path, text)

        completion = await run.work.means.models.complete(
            llm.transport, self._endpoints[llm.name], request, on_text, on_reasoning, protocol=llm.protocol
        )
        message = self._message(llm, completion)
        set_seconds(message.duration, time.perf_counter() - start)
        if first_text is not None:
            set_seconds(message.time_to_first_text, first_text - start)
        run.emit(step, message_completed=message)

    def _message(self, llm: LlmDefinition, completion: Completion) -> event_pb2.MessageCompleted:
        message = event_pb2.MessageCompleted(
            text=completion.text,
            finish_reason=completion.finish_reason,
            model=completion.model,
            reasoning=completion.reasoning[:MAX_REASONING],
        )
        seen: set[str] = set()
        for call in completion.tool_calls:
            call_id = _unique(call.call_id, seen)
            message.tool_calls.add(call_id=call_id, name=call.name, arguments_json=call.arguments_json)
        count(message, completion, self._prices[llm.name])
        return message


def count(
    message: event_pb2.MessageCompleted | event_pb2.SamplingCompleted, completion: Completion, price: Price
) -> None:
    """Set what an answer used and cost."""
    usage = completion.usage
    if usage is None:
        message.cost.unknown = True
        return
    message.usage.CopyFrom(
        Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cached_input_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        )
    )
    cost = price.cost(usage)
    message.cost.CopyFrom(Cost(unknown=True) if cost is None else Cost(nano_usd=cost))


def _unique(call_id: str, seen: set[str]) -> str:
    """The id, changed where the model gave it twice: results must find their calls."""
    made, number = call_id, 2
    while made in seen:
        made, number = f"{call_id}-{number}", number + 1
    seen.add(made)
    return made
