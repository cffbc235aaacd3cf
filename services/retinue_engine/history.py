"""A run's conversation from what is stored: its session's messages, its request, its events."""

import functools
import json
from collections.abc import Sequence

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RunOptions
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.agent.conversation import Conversation
from retinue_engine.convert import agent_definition
from retinue_engine.definition import AgentDefinition
from retinue_engine.store import RunRow, Store


def definition_of(row: RunRow) -> AgentDefinition:
    """What a run runs."""
    return definition_from(row.definition, RunRequest.FromString(row.request).options.SerializeToString())


@functools.lru_cache(maxsize=256)
def definition_from(resolved: bytes, options: bytes) -> AgentDefinition:
    """What a run runs, from its closure and its options as they are stored; most runs have the same."""
    return agent_definition(ResolveComponentResponse.FromString(resolved), RunOptions.FromString(options))


async def replay(store: Store, row: RunRow, events: Sequence[event_pb2.RunEvent]) -> Conversation:
    """The conversation of a run, as far as its events tell."""
    agent = definition_of(row)
    request = RunRequest.FromString(row.request)
    history = []
    # A session whose id was generated for this run has no earlier messages.
    if agent.include_history and request.session_id:
        messages = await store.list_messages(row.namespace, row.session_id, 0, None)
        history = [json.loads(each.message_json) for each in messages if each.run_id != row.run_id]
    conversation = Conversation(agent.system_prompt, history, request.message)
    for event in events:
        conversation.apply(event)
    return conversation
