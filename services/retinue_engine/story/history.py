"""A run tree from what is stored: its session's messages, its request, its events."""

import functools
import json
from collections.abc import Sequence

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import RunOptions
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1.component_pb2 import COMPONENT_KIND_AGENT
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.agent.attachments import message_content
from retinue_engine.agent.conversation import Conversation, Message
from retinue_engine.agent.tree import Definition, Tree, new_state
from retinue_engine.convert_definition import callee_definition, root_definition
from retinue_engine.stores.rows import RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.step_sessions import read_histories
from retinue_engine.workflow.convert_definition import workflow_definition
from retinue_engine.workflow.definition import WorkflowDefinition


def definition_of(row: RunRow) -> Definition:
    """What a run runs."""
    return definition_from(row.definition, _options(row))


def callee_of(root: RunRow, kind: int, name: str) -> Definition:
    """What a child of a root run runs."""
    return callee_from(root.definition, _options(root), kind, name)


@functools.lru_cache(maxsize=256)
def definition_from(resolved: bytes, options: bytes) -> Definition:
    """What a run runs, from its closure and its options as they are stored; most runs have the same."""
    closure = ResolveComponentResponse.FromString(resolved)
    given = RunOptions.FromString(options)
    if closure.component.kind != COMPONENT_KIND_AGENT:
        return workflow_definition(closure, closure.component, given)
    return root_definition(closure, given)


@functools.lru_cache(maxsize=1024)
def callee_from(resolved: bytes, options: bytes, kind: int, name: str) -> Definition:
    """What a run inside another one runs, likewise."""
    closure = ResolveComponentResponse.FromString(resolved)
    if kind != COMPONENT_KIND_AGENT:
        component = next(
            each
            for each in (closure.component, *closure.dependencies)
            if (each.kind, each.name) == (kind, name)
        )
        return workflow_definition(closure, component, RunOptions())
    return callee_definition(closure, name, RunOptions.FromString(options))


def _options(row: RunRow) -> bytes:
    return RunRequest.FromString(row.request).options.SerializeToString()


async def replay(store: Store, row: RunRow, events: Sequence[event_pb2.RunEvent]) -> Tree:
    """The tree of a root run, as far as its events tell."""
    request = RunRequest.FromString(row.request)
    options = request.options.SerializeToString()
    definition = definition_from(row.definition, options)
    callee = functools.partial(callee_from, row.definition, options)
    if isinstance(definition, WorkflowDefinition):
        tree = Tree(row.run_id, new_state(definition, request.message), callee)
        for run_id, known in (await read_histories(store, row, events)).items():
            tree.remember(run_id, known)
        tree.apply_all(events)
        return tree
    history: list[Message] = []
    # A session whose id was generated for this run has no earlier messages; a run that goes on from another
    # brings them along.
    if definition.include_history and request.session_id and not row.origin_run_id:
        messages = await store.list_messages(row.namespace, row.session_id, 0, None)
        history = [
            json.loads(each.message_json)
            for each in messages
            # Of a run that has ended, what its session was given later is not the past.
            if each.run_id != row.run_id and (row.end_us is None or each.time_us < row.end_us)
        ]
    attachments = events[0].run_started.attachments if events else ()
    message = None if row.origin_run_id else message_content(request.message, row.run_id, attachments)
    tree = Tree(row.run_id, Conversation(definition.system_prompt, history, message), callee)
    tree.apply_all(events)
    return tree
