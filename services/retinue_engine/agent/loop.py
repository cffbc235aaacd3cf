"""The agent loop: ask the model, call the tools it asks for, until it gives its last word."""

from dataclasses import dataclass

from retinue.engine.v1 import event_pb2
from retinue.errors import MaxIterationsReachedError
from retinue_engine.agent.budget import check_llm_call, check_tool_calls
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.model_calls import ModelCalls
from retinue_engine.agent.tool_calls import ToolCalls
from retinue_engine.definition import AgentDefinition
from retinue_engine.journal import Journal
from retinue_engine.llm.pricing import PriceTable
from retinue_engine.llm.routing import Models
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

    async def run(self) -> None:
        """Go on to the model's last word. Raises a RetinueError where the run fails."""
        conversation = self._conversation
        if conversation.answered:
            return  # the engine stopped between the last word and the run's end: nothing more is needed
        asking = ModelCalls(
            run_id=self._run_id,
            agent=self._agent,
            conversation=conversation,
            journal=self._journal,
            models=self._means.models,
            prices=self._means.prices,
            emit=self._emit,
        )
        tools = await self._list_tools()
        calling = ToolCalls(
            run_id=self._run_id,
            namespace=self._namespace,
            tools=tools,
            toolbox=self._means.toolbox,
            concurrency=self._agent.tool_concurrency,
            conversation=conversation,
            journal=self._journal,
            emit=self._emit,
        )
        asking.discard_open()
        while not conversation.answered:
            if conversation.unanswered:
                check_tool_calls(self._agent.budget, conversation)
                await calling.complete()
            else:
                self._check_iterations()
                check_llm_call(self._agent.budget, conversation)
                await asking.ask(tools)

    async def _list_tools(self) -> ToolList:
        if not self._agent.servers:
            return NO_TOOLS
        return await self._means.toolbox.list_tools(self._namespace, self._agent.servers)

    def _check_iterations(self) -> None:
        most = self._agent.max_iterations
        if self._conversation.turns >= most:
            raise MaxIterationsReachedError(
                f"the agent asked its model {most} times without coming to an answer: raise max_iterations, "
                "or see why it goes on calling tools",
                max_iterations=most,
            )

    def _emit(self, path: str, **what: object) -> None:
        event = event_pb2.RunEvent(run_id=self._run_id, path=path, **what)  # type: ignore[arg-type]
        self._journal.emit(event)
        self._conversation.apply(event)
