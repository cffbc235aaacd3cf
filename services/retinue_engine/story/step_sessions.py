"""The sessions of workflow steps: `<session of the workflow>:<step>`, and what a step remembers from them.

A step's session is written by the runs of that step alone, so only while a run tree of the base session is at
work. A run begins with what earlier trees left there, never with what its own tree does: whatever the order
in which branches, rounds and tries end, it begins the same, also when it is read again.
"""

import functools
import json
from collections.abc import Collection, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.service_pb2 import RunRequest
from retinue_engine.agent.conversation import Message
from retinue_engine.agent.tree import Definition, Tree
from retinue_engine.definition import AgentDefinition
from retinue_engine.stores.rows import RunRow
from retinue_engine.stores.store import Store


class StepSession(NamedTuple):
    """The session of a run that begins at a step."""

    session_id: str = ""
    """Empty where it has none."""
    position: int = 0
    """The last place up to which it has read; 0 where it begins with nothing."""
    history: Sequence[Message] = ()


def session_of_step(caller: str, place: str) -> str:
    """The session of a step at a place, `step:look/try:1/item:2`, in a workflow's session.

    Tries, rounds and choices share one; the items of a list have one each.
    """
    first, *rest = place.split("/")
    items = (part.removeprefix("item:") for part in rest if part.startswith("item:"))
    # The key of a call in code may hold any character: see place_of.
    kind, _, name = first.partition(":")
    return ":".join([caller, unquote(name) if kind == "call" else name, *items])


async def open_step_session(
    store: Store, row: RunRow, tree: Tree, session_id: str, definition: Definition
) -> StepSession:
    """What a run that begins at a step is given of its session. Raises StoreUnavailableError."""
    request = _request(row.request)
    if not request.session_id:
        # The id was generated for this tree, and drawn again if it had existed.
        return StepSession(session_id)
    session = await store.get_session(row.namespace, session_id)
    if session is None:
        return StepSession(session_id)
    if session.base_session_id != row.session_id or session.active_run_id:
        # Somebody began it by itself, or talks with the step's agent there just now.
        return StepSession()
    given = request.options
    wanted = (
        given.include_history
        if given.HasField("include_history")
        else isinstance(definition, AgentDefinition) and definition.include_history
    )
    if not wanted or not isinstance(definition, AgentDefinition):
        return StepSession(session_id)
    position = session.message_count
    history = await _messages(store, row.namespace, session_id, position, tree.run_ids())
    return StepSession(session_id, position if history else 0, history)


@functools.lru_cache(maxsize=64)
def _request(request: bytes) -> RunRequest:
    # A run may have thousands of steps, and its message a megabyte.
    return RunRequest.FromString(request)


async def read_histories(
    store: Store, row: RunRow, events: Sequence[event_pb2.RunEvent]
) -> dict[str, list[Message]]:
    """What the runs of a tree's steps began with, by their ids, for those that have not ended."""
    started = {each.run_id: each.child_run_started for each in events if each.HasField("child_run_started")}
    ended = {each.run_id for each in events if each.HasField("child_run_finished")}
    return {
        run_id: await _messages(store, row.namespace, child.session_id, child.history_position, started)
        for run_id, child in started.items()
        if child.history_position and run_id not in ended
    }


async def _messages(
    store: Store, namespace: str, session_id: str, position: int, tree: Collection[str]
) -> list[Message]:
    """What other trees left in a session up to a place."""
    rows = await store.list_messages(namespace, session_id, 0, position)
    return [json.loads(each.message_json) for each in rows if each.run_id not in tree]
