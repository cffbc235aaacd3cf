"""A run tree from what is stored: its session's messages, its request, its events."""

import functools
import json
from collections.abc import Sequence

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RunOptions
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.agent.attachments import message_content
from retinue_engine.agent.conversation import Conversation, Message
from retinue_engine.agent.tree import Tree
from retinue_engine.convert_definition import callee_definition, root_definition
from retinue_engine.definition import AgentDefinition
from retinue_engine.store import RunRow, Store


def definition_of(row: RunRow) -> AgentDefinition:
    """What a run runs."""
    return definition_from(row.definition, _options(row))


def callee_of(root: RunRow, name: str) -> AgentDefinition:
    """What a child of a root run runs."""
    return callee_from(root.definition, _options(root), name)


@functools.lru_cache(maxsize=256)
def definition_from(resolved: bytes, options: bytes) -> AgentDefinition:
    """What a run runs, from its closure and its options as they are stored; most runs have the same."""
    return root_definition(ResolveComponentResponse.FromString(resolved), RunOptions.FromString(options))


@functools.lru_cache(maxsize=256)
def callee_from(resolved: bytes, options: bytes, name: str) -> AgentDefinition:
    """An agent that a run's agent may call, likewise."""
    return callee_definition(
        ResolveComponentResponse.FromString(resolved), name, RunOptions.FromString(options)
    )


def _options(row: RunRow) -> bytes:
    return RunRequest.FromString(row.request).options.SerializeToString()


async def replay(store: Store, row: RunRow, events: Sequence[event_pb2.RunEvent]) -> Tree:
    """The tree of a root run, as far as its events tell."""
    request = RunRequest.FromString(row.request)
    options = request.options.SerializeToString()
    agent = definition_from(row.definition, options)
    history: list[Message] = []
    # A session whose id was generated for this run has no earlier messages; a run that goes on from another
    # brings them along.
    if agent.include_history and request.session_id and not row.origin_run_id:
        messages = await store.list_messages(row.namespace, row.session_id, 0, None)
        history = [
            json.loads(each.message_json)
            for each in messages
            # Of a run that has ended, what its session was given later is not the past.
            if each.run_id != row.run_id and (row.end_us is None or each.time_us < row.end_us)
        ]
    attachments = events[0].run_started.attachments if events else ()
    message = None if row.origin_run_id else message_content(request.message, row.run_id, attachments)
    root = Conversation(agent.system_prompt, history, message)
    tree = Tree(row.run_id, root, functools.partial(callee_from, row.definition, options))
    tree.apply_all(events)
    return tree
