"""Sessions as things to keep in order: labels, totals, deletion, export."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import (
    BlobNotFoundError,
    InputNotFoundError,
    InvalidArgumentError,
    RunNotFoundError,
    SessionBusyError,
    SessionNotFoundError,
)
from tests.suite import Suite, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

IMAGE = service_pb2.InlineFile(mime_type="image/png", name="a.png", data=b"\x89PNG")

WHOLE: dict[str, Any] = {
    "rules": [
        {
            "when": {"system_contains": "boss", "last_role": "user"},
            "tool_calls": [{"name": "worker", "arguments": {"message": "go"}}],
        },
        {"when": {"system_contains": "boss"}, "text": "told"},
        {"when": {"last_role": "user"}, "tool_calls": [{"name": "tools__count"}]},
    ],
    "default": {"text": "done"},
}


def whole_project(folder: Path) -> dict[str, Any]:
    """A project whose runs have children, inputs and files."""
    return {
        "agents": {
            "boss": {"system_prompt": "boss", "agents": ["worker"]},
            "worker": {"mcp_servers": ["tools"], "tool_policies": [{"approval": "always"}]},
        },
        "mcp_servers": {"tools": stdio_server(folder)},
    }


async def labelled(suite: Suite, **labels: str) -> list[str]:
    return [each.session_id async for each in suite.client.sessions.list(labels=labels, page_size=2)]


async def test_labels_are_replaced_as_a_whole(opened: OpenSuite) -> None:
    suite = await opened()
    await suite.story(session_id="s")
    assert dict((await suite.client.sessions.get("s")).labels) == {}
    answer = await suite.client.sessions.update("s", {"team": "red", "größe": "ü" * 256})
    assert answer == await suite.client.sessions.get("s")
    assert dict(answer.labels) == {"team": "red", "größe": "ü" * 256}
    # Runs leave them alone.
    await suite.story(session_id="s")
    assert dict((await suite.client.sessions.get("s")).labels)["team"] == "red"
    assert dict((await suite.client.sessions.update("s", {"a": ""})).labels) == {"a": ""}
    assert dict((await suite.client.sessions.update("s", {})).labels) == {}


async def test_sessions_are_found_by_all_of_the_labels_asked_for(opened: OpenSuite) -> None:
    suite = await opened()
    for number in range(8):
        await suite.story(session_id=f"s{number}")
        labels = {"team": "red" if number % 2 else "blue", "n": str(number), "all": ""}
        await suite.client.sessions.update(f"s{number}", labels)
    await suite.story(session_id="bare")
    assert await labelled(suite, team="red") == ["s7", "s5", "s3", "s1"]
    assert await labelled(suite, team="red", n="3") == ["s3"]
    assert await labelled(suite, team="blue", n="3") == []
    assert await labelled(suite, team="re") == []
    assert await labelled(suite, all="") == [f"s{number}" for number in reversed(range(8))]
    assert len(await labelled(suite)) == 9
    await suite.client.sessions.update("s7", {"team": "blue"})
    assert await labelled(suite, team="red") == ["s5", "s3", "s1"]


async def test_labels_that_cannot_be_taken_are_refused(opened: OpenSuite) -> None:
    suite = await opened()
    await suite.story(session_id="s")
    wrong: list[tuple[dict[str, str], str]] = [
        ({"": "x"}, "labels['']"),
        ({"x": "y" * 257}, "labels['x']"),
        ({str(number): "" for number in range(65)}, "labels"),
    ]
    for labels, field in wrong:
        with pytest.raises(InvalidArgumentError) as refused:
            await suite.client.sessions.update("s", labels)
        assert [each.field for each in refused.value.violations] == [field]
    with pytest.raises(SessionNotFoundError):
        await suite.client.sessions.update("nowhere", {})


async def test_a_session_says_what_its_runs_have_used_and_which_has_its_turn(opened: OpenSuite) -> None:
    usage = {"input_tokens": 7, "output_tokens": 3, "cached_input_tokens": 2, "reasoning_tokens": 1}
    script = {
        "rules": [
            {"when": {"user_contains": "fail"}, "error": {"status": 400}},
            {"when": {"user_contains": "hold"}, "hang": True},
            {"when": {"last_role": "user"}, "tool_calls": [{"name": "nothing"}], "usage": usage},
        ],
        "default": {"text": "ok", "usage": usage},
    }
    suite = await opened(script)
    results = [await suite.result(message=message, session_id="s") for message in ("one", "fail", "two")]
    await suite.story(session_id="other")
    session = await suite.client.sessions.get("s")
    totals = session.totals
    assert (totals.runs, totals.turns, totals.tool_calls) == (3, 4, 2)
    assert (totals.usage.input_tokens, totals.usage.output_tokens) == (28, 12)
    assert (totals.usage.cached_input_tokens, totals.usage.reasoning_tokens) == (8, 4)
    assert (totals.cost.nano_usd, totals.cost.unknown) == (0, True)
    took_us = sum(each.duration.ToMicroseconds() for each in results)
    assert abs(totals.duration.ToMicroseconds() - took_us) <= len(results)
    assert session.active_run_id == ""
    run = await suite.client.runs.start("a", "hold", session_id="s")
    assert (await suite.client.sessions.get("s")).active_run_id == run.run_id
    assert [each.active_run_id async for each in suite.client.sessions.list()] == ["", run.run_id]
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    session = await suite.client.sessions.get("s")
    assert (session.active_run_id, session.totals.runs) == ("", 4)
    assert session.update_time.ToMicroseconds() >= session.create_time.ToMicroseconds()


async def test_a_deleted_session_is_gone_with_all_that_is_its(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(WHOLE, **whole_project(tmp_path))
    run = await suite.client.runs.start("boss", "hi", session_id="s", files=[IMAGE], request_id="r")
    await suite.story(session_id="other")

    async def asked() -> list[Any]:
        return [each async for each in suite.client.inputs.list(run.run_id)]

    (request,) = await until(asked, "a person is asked")
    await suite.client.inputs.approve(request)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    (child,) = [each.run_id async for each in suite.client.runs.list(root_run_id=run.run_id)]
    events = await suite.watched(run.run_id)
    blob_id = events[0].run_started.attachments[0].blob_id
    assert await suite.client.sessions.delete("s") == 2
    with pytest.raises(SessionNotFoundError):
        await suite.client.sessions.get("s")
    with pytest.raises(SessionNotFoundError):
        await suite.messages("s")
    with pytest.raises(SessionNotFoundError):
        await suite.client.sessions.delete("s")
    for run_id in (run.run_id, child):
        with pytest.raises(RunNotFoundError):
            await suite.client.runs.get(run_id)
        with pytest.raises(RunNotFoundError):
            await suite.watched(run_id)
    with pytest.raises((RunNotFoundError, BlobNotFoundError)):
        await suite.client.runs.blob(run.run_id, blob_id)
    with pytest.raises((RunNotFoundError, InputNotFoundError)):
        await suite.client.inputs.approve(request)
    assert [each async for each in suite.client.inputs.list(include_closed=True)] == []
    assert [each.session_id async for each in suite.client.sessions.list()] == ["other"]
    # Not a row of it is left.
    with sqlite3.connect(f"file:{tmp_path / 'engine' / 'engine.db'}?mode=ro", uri=True) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            rows = repr(database.execute(f"SELECT * FROM {name}").fetchall())
            assert run.run_id not in rows, name
            assert blob_id not in rows, name
    database.close()
    # The name and the request_id are free again.
    again = await suite.client.runs.start("a", "hi", session_id="s", request_id="r")
    assert again.run_id != run.run_id
    await suite.ended(again.run_id)
    session = await suite.client.sessions.get("s")
    assert (session.totals.runs, len(await suite.messages("s"))) == (1, 4)


async def test_a_session_in_use_is_not_deleted(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(WHOLE, **whole_project(tmp_path))
    run = await suite.client.runs.start("worker", "hi", session_id="s")
    queued = await suite.client.runs.start("a", "hi", session_id="s")

    async def waits() -> bool:
        return (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_WAITING

    await until(waits, "the run waits")
    with pytest.raises(SessionBusyError):
        await suite.client.sessions.delete("s")
    await suite.client.runs.cancel(run.run_id)
    assert (await suite.ended(queued.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert len(await suite.watched(run.run_id)) > 3
    assert await suite.client.sessions.delete("s") == 2


async def test_a_watch_of_a_run_that_is_deleted_ends(opened: OpenSuite) -> None:
    suite = await opened()
    run = (await suite.story(session_id="s"))[0].run_id
    stories = [suite.watched(run) for _ in range(5)]
    await asyncio.gather(*stories, suite.client.sessions.delete("s"), return_exceptions=True)
    with pytest.raises(RunNotFoundError):
        await suite.watched(run)


async def test_an_export_gives_the_session_then_its_messages_then_its_runs(opened: OpenSuite) -> None:
    suite = await opened()
    runs = [(await suite.story(message=f"m{number}", session_id="s"))[0].run_id for number in range(3)]
    await suite.story(session_id="other")
    await suite.client.sessions.update("s", {"team": "red"})
    pieces = [piece async for piece in suite.client.sessions.export("s")]
    assert [piece.WhichOneof("piece") for piece in pieces] == ["session", *["message"] * 6, *["run"] * 3]
    assert pieces[0].session == await suite.client.sessions.get("s")
    assert [piece.message for piece in pieces[1:7]] == [
        each async for each in suite.client.sessions.messages("s")
    ]
    listed = {run.run_id: run async for run in suite.client.runs.list()}
    assert [piece.run for piece in pieces[7:]] == [listed[run_id] for run_id in runs]


async def test_a_long_session_is_exported_whole(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "ok"}}, agents={"b": {"include_history": False}})
    count = 510
    runs = [await suite.client.runs.start("b", f"m{number}", session_id="s") for number in range(count)]
    await suite.ended(runs[-1].run_id, 60)
    pieces = [piece async for piece in suite.client.sessions.export("s")]
    messages = [piece.message for piece in pieces if piece.HasField("message")]
    assert [each.position for each in messages] == list(range(1, 2 * count + 1))
    exported = [piece.run.run_id for piece in pieces if piece.HasField("run")]
    assert exported == [run.run_id for run in runs]


async def test_what_does_not_exist_cannot_be_exported(opened: OpenSuite) -> None:
    suite = await opened()
    with pytest.raises(SessionNotFoundError):
        async for _ in suite.client.sessions.export("nowhere"):
            pass
