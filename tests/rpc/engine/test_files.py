"""Files of a message: stored with the run, shown to the model, kept for the session's later runs."""

import base64
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import BlobNotFoundError, InvalidArgumentError
from tests.suite import Suite, check_story, open_processes, until

OpenSuite = Callable[..., Awaitable[Suite]]

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
IMAGE = service_pb2.InlineFile(mime_type="image/png", name="pixel.png", data=PIXEL)
PDF = service_pb2.InlineFile(mime_type="application/pdf", name="Größe.pdf", data=b"%PDF-1.7\0\xff")

LARGE = [service_pb2.InlineFile(mime_type="image/png", data=bytes([number]) * 2**20) for number in range(3)]
"""As much as a run takes."""


def url(file: service_pb2.InlineFile) -> str:
    return f"data:{file.mime_type};base64,{base64.b64encode(file.data).decode()}"


def shown(suite: Suite, place: int = 0) -> Any:
    """The content of a message that the model was sent last."""
    return suite.model.requests[-1]["messages"][place]["content"]


AS_PARTS = [
    {"type": "text", "text": "what is this?"},
    {"type": "image_url", "image_url": {"url": url(IMAGE)}},
    {"type": "file", "file": {"filename": "Größe.pdf", "file_data": url(PDF)}},
]


async def test_files_reach_the_model_and_can_be_got_back(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "I see {attachments}"}})
    events = await suite.story(message="what is this?", files=[IMAGE, PDF], session_id="s")
    check_story(events)
    assert shown(suite) == AS_PARTS
    assert "image/png" in events[-1].run_finished.result.output
    attachments = events[0].run_started.attachments
    assert [(each.name, each.mime_type, each.size_bytes) for each in attachments] == [
        ("pixel.png", "image/png", len(PIXEL)),
        ("Größe.pdf", "application/pdf", len(PDF.data)),
    ]
    assert attachments[0].blob_id == f"blob-{hashlib.sha256(PIXEL).hexdigest()}"
    run_id = events[0].run_id
    for attachment, file in zip(attachments, (IMAGE, PDF), strict=True):
        got = await suite.client.runs.blob(run_id, attachment.blob_id)
        assert (got.data, got.attachment) == (file.data, attachment)
    # The session holds no bytes, and says where they are.
    kept = json.dumps((await suite.messages("s"))[0])
    assert base64.b64encode(PIXEL).decode() not in kept
    assert attachments[0].blob_id in kept


async def test_a_file_may_be_all_there_is_to_say(opened: OpenSuite) -> None:
    suite = await opened()
    await suite.story(message="", files=[IMAGE])
    assert shown(suite) == AS_PARTS[1:2]


async def test_the_sessions_next_run_shows_the_file_again(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "I see {attachments}"}})
    first = (await suite.story(message="what is this?", files=[IMAGE, PDF], session_id="s"))[0].run_id
    second = (await suite.story(message="and now?", session_id="s"))[0]
    assert shown(suite, 0) == AS_PARTS
    assert shown(suite, -1) == "and now?"
    assert not second.run_started.attachments
    # It belongs to the run that brought it.
    blob_id = f"blob-{hashlib.sha256(PIXEL).hexdigest()}"
    assert (await suite.client.runs.blob(first, blob_id)).data == PIXEL
    with pytest.raises(BlobNotFoundError):
        await suite.client.runs.blob(second.run_id, blob_id)


async def test_the_same_file_twice_is_kept_once_and_shown_twice(opened: OpenSuite) -> None:
    suite = await opened()
    twin = service_pb2.InlineFile(mime_type="image/png", name="twin.png", data=PIXEL)
    events = await suite.story(message="what is this?", files=[IMAGE, twin])
    check_story(events)
    assert shown(suite) == [*AS_PARTS[:2], AS_PARTS[1]]
    names = [(each.name, each.blob_id) for each in events[0].run_started.attachments]
    assert [name for name, _ in names] == ["pixel.png", "twin.png"]
    assert len({blob_id for _, blob_id in names}) == 1


async def test_a_request_with_files_that_is_sent_again_finds_its_run(opened: OpenSuite) -> None:
    suite = await opened()
    run = await suite.client.runs.start("a", "hi", files=[IMAGE], request_id="r")
    assert (await suite.client.runs.start("a", "hi", files=[IMAGE], request_id="r")).run_id == run.run_id
    with pytest.raises(Exception, match="another request"):
        await suite.client.runs.start("a", "hi", files=[PDF], request_id="r")


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ([service_pb2.InlineFile(mime_type="image/png")], ["run.files[0].data"]),
        ([IMAGE, service_pb2.InlineFile(mime_type="png", data=b"x")], ["run.files[1].mime_type"]),
        ([service_pb2.InlineFile(data=b"x")], ["run.files[0].mime_type"]),
        ([service_pb2.InlineFile(mime_type="text/plain; a=b", data=b"x")], ["run.files[0].mime_type"]),
        ([IMAGE] * 21, ["run.files"]),
        ([*LARGE, IMAGE], ["run.files"]),
    ],
)
async def test_files_that_cannot_be_taken_are_refused(
    opened: OpenSuite, files: list[service_pb2.InlineFile], fields: list[str]
) -> None:
    suite = await opened()
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", files=files)
    assert [each.field for each in refused.value.violations] == fields
    assert [run async for run in suite.client.runs.list()] == []


async def test_as_much_as_a_run_takes_is_kept_while_it_waits(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    await suite.client.runs.start("a", "hi", session_id="s")
    run = await suite.client.runs.start("a", "hi", session_id="s", files=LARGE)
    assert run.state == run_pb2.RUN_STATE_QUEUED
    async for event in suite.client.runs.events(run.run_id):
        for attachment, file in zip(event.run_started.attachments, LARGE, strict=True):
            assert (await suite.client.runs.blob(run.run_id, attachment.blob_id)).data == file.data


async def test_what_was_never_attached_is_not_found(opened: OpenSuite) -> None:
    suite = await opened()
    run_id = (await suite.story(files=[IMAGE]))[0].run_id
    with pytest.raises(BlobNotFoundError) as unknown:
        await suite.client.runs.blob(run_id, "blob-none")
    assert unknown.value.facts == {"blob_id": "blob-none"}
    blob_id = f"blob-{hashlib.sha256(PIXEL).hexdigest()}"
    request = service_pb2.GetBlobRequest(namespace="other", run_id=run_id, blob_id=blob_id)
    with pytest.raises(grpc.aio.AioRpcError) as elsewhere:
        await suite.runs.GetBlob(request)
    assert elsewhere.value.code() == grpc.StatusCode.NOT_FOUND


async def test_a_retried_run_still_shows_the_files_of_the_first(opened: OpenSuite) -> None:
    script = {"rules": [{"when": {"has_image": True}, "times": 1, "error": {"status": 400}}]}
    suite = await opened(script | {"default": {"text": "ok"}})
    first = (await suite.story(message="what is this?", files=[IMAGE, PDF], session_id="s"))[0].run_id
    again = await suite.client.runs.retry(first)
    assert (await suite.ended(again.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert shown(suite) == AS_PARTS
    # And so does the session, in which the message stands once.
    await suite.story(message="and now?", session_id="s")
    assert shown(suite, 0) == AS_PARTS
    assert [each["role"] for each in await suite.messages("s")] == ["user", "assistant"] * 2


async def test_a_restart_keeps_the_files(tmp_path: Path) -> None:
    script = {"rules": [{"when": {"turn": 1}, "times": 1, "hang": True}], "default": {"text": "ok"}}
    async with open_processes(tmp_path, script) as suite:
        run = await suite.client.runs.start("a", "what is this?", files=[IMAGE, PDF])
        await until(lambda: suite.model.requests, "the model is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        assert shown(suite) == AS_PARTS
        assert len(suite.model.requests) == 2


async def test_as_much_as_a_run_takes_reaches_the_model(opened: OpenSuite) -> None:
    suite = await opened()
    events = await suite.story(message="look", files=LARGE)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert [part["image_url"]["url"] for part in shown(suite)[1:]] == [url(file) for file in LARGE]
