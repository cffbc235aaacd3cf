"""The agent loop: ask the model, call the tools it asks for, until it gives its last word."""

import time
from dataclasses import dataclass

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2
from retinue.errors import MaxIterationsReachedError
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.tool_calls import ToolCalls
from retinue_engine.definition import AgentDefinition
from retinue_engine.journal import Journal
from retinue_engine.llm.model import ChatRequest, Completion, Endpoint
from retinue_engine.llm.pricing import PriceTable
from retinue_engine.llm.routing import Models
from retinue_engine.outcome import set_seconds
from retinue_engine.tools import NO_TOOLS, Toolbox, ToolList


@dataclass(frozen=True, slots=True)
class Means:
    """What agent runs share: models, tools, prices."""

    models: Models
    toolbox: Toolbox
    prices: PriceTable


class AgentLoop:
    """One agent run. Every step goes by the conversation, so that a run that is taken up again goes on."""

    def __init__(
        self,
        *,
        run_id: str,
        namespace: str,
        agent: AgentDefinition,
        conversation: Conversation,
        journal: Journal,
        means: Means,
    ) -> None:
        self._run_id = run_id
        self._namespace = namespace
        self._agent = agent
        self._conversation = conversation
        self._journal = journal
        self._means = means
        self._price = means.prices.price(agent.llm.model, agent.llm.price)

    async def run(self) -> None:
        """Go on to the model's last word. Raises a RetinueError where the run fails."""
        if self._conversation.answered:
            return  # the engine stopped between the last word and the run's end: nothing more is needed
        endpoint = self._agent.llm.endpoint()
        tools = await self._list_tools()
        calls = ToolCalls(
            run_id=self._run_id,
            namespace=self._namespace,
            tools=tools,
            toolbox=self._means.toolbox,
            concurrency=self._agent.tool_concurrency,
            conversation=self._conversation,
            journal=self._journal,
            emit=self._emit,
        )
        if self._conversation.open_turn:
            discarded = event_pb2.MessageDiscarded(
                from_sequence=self._conversation.open_turn,
                reason="the engine stopped while the model was answering; the model is asked again",
            )
            self._emit(f"turn:{self._conversation.turn}", message_discarded=discarded)
        while not self._conversation.answered:
            if self._conversation.unanswered:
                await calls.complete()
            else:
                await self._ask(endpoint, tools)

    async def _list_tools(self) -> ToolList:
        if not self._agent.servers:
            return NO_TOOLS
        return await self._means.toolbox.list_tools(self._namespace, self._agent.servers)

    def _emit(self, path: str, **what: object) -> None:
        event = event_pb2.RunEvent(run_id=self._run_id, path=path, **what)  # type: ignore[arg-type]
        self._journal.emit(event)
        self._conversation.apply(event)

    async def _ask(self, endpoint: Endpoint, tools: ToolList) -> None:
        conversation, agent = self._conversation, self._agent
        if conversation.turns >= agent.max_iterations:
            raise MaxIterationsReachedError(
                f"the agent asked its model {agent.max_iterations} times without coming to an answer: raise "
                "max_iterations, or see why it goes on calling tools",
                max_iterations=agent.max_iterations,
            )
        turn = conversation.turns + 1
        path = f"turn:{turn}"
        started = event_pb2.TurnStarted(turn=turn, llm=agent.llm.name, model=agent.llm.model)
        self._emit(path, turn_started=started)
        start = time.perf_counter()
        first_text: float | None = None
        emit_text, run_id = self._journal.emit_text, self._run_id

        def on_text(text: str) -> None:
            nonlocal first_text
            if first_text is None:
                first_text = time.perf_counter()
            emit_text(run_id, path, text)

        request = ChatRequest(
            messages=conversation.messages, tools=tools.functions, generation=agent.generation
        )
        llm = agent.llm
        completion = await self._means.models.complete(
            llm.transport, endpoint, request, on_text, protocol=llm.protocol
        )
        message = self._message(completion)
        set_seconds(message.duration, time.perf_counter() - start)
        if first_text is not None:
            set_seconds(message.time_to_first_text, first_text - start)
        self._emit(path, message_completed=message)

    def _message(self, completion: Completion) -> event_pb2.MessageCompleted:
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
        cost = self._price.cost(usage)
        message.cost.CopyFrom(Cost(unknown=True) if cost is None else Cost(nano_usd=cost))
        return message


def _unique(call_id: str, seen: set[str]) -> str:
    """The id, changed where the model gave it twice: results must find their calls."""
    made, number = call_id, 2
    while made in seen:
        made, number = f"{call_id}-{number}", number + 1
    seen.add(made)
    return made
