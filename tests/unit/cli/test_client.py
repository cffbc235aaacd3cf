"""What the Python client sends and gives back, against a made-up engine on a real server."""

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from retinue.client import Access, Client, open_client
from retinue.engine.v1 import input_pb2, service_pb2, session_pb2
from retinue.errors import SequenceOutOfRangeError

from . import stories
from .engine import StoryTeller


@pytest.fixture
async def client(teller: StoryTeller) -> AsyncIterator[Client]:
    async with open_client(os.environ["RETINUE_ENGINE_ADDRESS"], namespace="lab", access=Access()) as opened:
        yield opened


@pytest.mark.parametrize("way", ["start", "stream"])
async def test_what_a_run_may_be_given_is_sent(teller: StoryTeller, client: Client, way: str) -> None:
    file = service_pb2.InlineFile(mime_type="image/png", name="a", data=b"png")
    given: dict[str, Any] = {
        "files": [file],
        "session_busy": service_pb2.SESSION_BUSY_POLICY_REJECT,
        "priority": -3,
        "queue_timeout": timedelta(seconds=1, milliseconds=500),
    }
    teller.story = stories.time_story()
    for options in (given, {}):
        if way == "start":
            assert (await client.runs.start("assistant", "look", **options)).run_id == stories.RUN_ID
        else:
            assert len([event async for event in client.runs.stream("assistant", "look", **options)]) == 12
    request, plain = teller.requests
    assert list(request.files) == [file]
    assert request.session_busy == service_pb2.SESSION_BUSY_POLICY_REJECT
    assert request.priority == -3
    assert request.queue_timeout.ToMilliseconds() == 1500
    assert not plain.HasField("queue_timeout")


async def test_a_watch_may_leave_events_out(teller: StoryTeller, client: Client) -> None:
    teller.story = stories.time_story()
    watch = client.runs.watch(stories.RUN_ID, after_sequence=2, event_types=["text_delta"], path="turn:1")
    assert [event.sequence async for event in watch] == list(range(3, 13))
    assert teller.watches == [
        service_pb2.WatchRunRequest(
            namespace="lab",
            run_id=stories.RUN_ID,
            after_sequence=2,
            event_types=["text_delta"],
            path="turn:1",
        )
    ]


async def test_the_events_so_far_end_where_the_run_is_now(teller: StoryTeller, client: Client) -> None:
    teller.story = stories.time_story()
    teller.pause_after = 5
    assert [event.sequence async for event in client.runs.events(stories.RUN_ID)] == [1, 2, 3, 4, 5]
    rest = client.runs.events(stories.RUN_ID, after_sequence=3)
    assert [event.sequence async for event in rest] == [4, 5]
    assert [event async for event in client.runs.events(stories.RUN_ID, after_sequence=5)] == []
    with pytest.raises(SequenceOutOfRangeError):
        await anext(client.runs.events(stories.RUN_ID, after_sequence=99))


async def test_runs_inside_a_run_are_listed_by_it(teller: StoryTeller, client: Client) -> None:
    assert [run.run_id async for run in client.runs.list(root_run_id="run-r")] == [stories.RUN_ID]
    assert teller.listed[0].root_run_id == "run-r"


async def test_a_blob_comes_with_its_bytes(teller: StoryTeller, client: Client) -> None:
    assert (await client.runs.blob(stories.RUN_ID, "blob-1")).data == b"blob-1"


async def test_a_session_is_labelled_listed_exported_and_deleted(teller: StoryTeller, client: Client) -> None:
    teller.messages = [session_pb2.SessionMessage(position=1)]
    labelled = await client.sessions.update("s-1", {"team": "search"})
    assert dict(labelled.labels) == {"team": "search"}
    listed = [each.session_id async for each in client.sessions.list(labels={"team": "search"})]
    assert listed == [stories.SESSION_ID]
    pieces = [piece.WhichOneof("piece") async for piece in client.sessions.export("s-1")]
    assert pieces == ["session", "message", "run"]
    assert await client.sessions.delete("s-1") == 3
    assert teller.commands == [
        service_pb2.UpdateSessionRequest(namespace="lab", session_id="s-1", labels={"team": "search"}),
        service_pb2.ListSessionsRequest(namespace="lab", labels={"team": "search"}, page_size=100),
        service_pb2.DeleteSessionRequest(namespace="lab", session_id="s-1"),
    ]


async def test_an_input_is_answered_as_it_was_listed(teller: StoryTeller, client: Client) -> None:
    teller.inputs = [stories.approval(), stories.question("Why?")]
    approval, question = [each async for each in client.inputs.list(stories.RUN_ID)]
    assert (await client.inputs.approve(approval, "{}")).state == input_pb2.INPUT_STATE_ANSWERED
    await client.inputs.provide(question, {"why": "därum"})
    await client.inputs.deny(approval, "no")
    await client.inputs.refuse(question)
    sent = [request for request in teller.commands if isinstance(request, service_pb2.AnswerInputRequest)]
    assert [each.answer.WhichOneof("answer") for each in sent] == ["approve", "value_json", "deny", "refuse"]
    assert [each.arguments_sha256 for each in sent] == ["sha-input-1", "", "sha-input-1", ""]
    assert sent[1].answer.value_json == '{"why": "därum"}'
    assert {each.namespace for each in sent} == {"lab"}
