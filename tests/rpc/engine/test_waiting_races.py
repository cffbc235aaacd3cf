"""Answers, cancels and calls at the same moment: a run hears each word once, and its story stays whole."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from retinue.engine.v1 import input_pb2, run_pb2
from retinue.errors import InputClosedError, RetinueError, StoreUnavailableError
from retinue_engine.stores.rows import InputRow
from retinue_engine.stores.sqlite.store import SqliteStore
from tests.rpc.engine.test_approvals import ALWAYS, with_calls
from tests.suite import Suite, check_story, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


async def test_of_twenty_answers_at_once_exactly_one_counts(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, ["count"])
    for round_number in range(3):
        run = await suite.client.runs.start("b", "hi")
        (request,) = await suite.asked(run.run_id)

        async def answer(number: int, request: input_pb2.InputRequest = request) -> int | None:
            try:
                await suite.client.inputs.approve(request, json.dumps({"n": number}))
            except InputClosedError:
                return None
            return number

        counted = [each for each in await asyncio.gather(*map(answer, range(20))) if each is not None]
        assert len(counted) == 1
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        assert len(suite.notes()) == round_number + 1
        assert suite.notes()[-1]["arguments"] == {"n": counted[0]}
        check_story(await suite.watched(run.run_id))


async def test_answers_at_any_moment_all_reach_their_run(opened: OpenSuite, tmp_path: Path) -> None:
    """The moments when a run lets go of itself and is taken up are those that are hard to hit."""
    suite = await with_calls(opened, tmp_path, ["count", "look", "wipe"])

    async def race(number: int) -> None:
        run = await suite.client.runs.start("b", "hi")
        answered: set[str] = set()
        while len(answered) < 3:
            asked = [each async for each in suite.client.inputs.list(run.run_id)]
            for _ in range(number):
                await asyncio.sleep(0)
            new = [each for each in asked if each.input_id not in answered]
            await asyncio.gather(*(suite.client.inputs.approve(each) for each in new))
            answered |= {each.input_id for each in new}
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        check_story(await suite.watched(run.run_id))

    for at in range(0, 40, 10):
        await asyncio.gather(*map(race, range(at, at + 10)))
    assert len(suite.notes()) == 3 * 40


async def test_a_cancel_and_an_answer_at_once_leave_one_story(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, ["count"])

    async def race(number: int) -> None:
        run = await suite.client.runs.start("b", "hi")
        (request,) = await suite.asked(run.run_id)

        async def answer() -> None:
            try:
                await suite.client.inputs.approve(request)
            except RetinueError as error:
                assert isinstance(error, InputClosedError)  # noqa: PT017 - any other is a bug

        async def cancel() -> None:
            for _ in range(number):
                await asyncio.sleep(0)
            await suite.client.runs.cancel(run.run_id)

        await asyncio.gather(answer(), cancel())
        ended = await suite.ended(run.run_id)
        assert ended.state in (run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_CANCELLED)
        check_story(await suite.watched(run.run_id))
        assert await suite.asked(run.run_id, 0) == []

    for at in range(0, 60, 10):
        await asyncio.gather(*map(race, range(at, at + 10)))


class Gate:
    """Holds up what a method of the store has found, the first times, until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch, method: str, times: int = 1) -> None:
        self.times = times
        self.reached = False
        self.opened = asyncio.Event()
        original = getattr(SqliteStore, method)

        async def slow(store: SqliteStore, *args: Any, **more: Any) -> Any:
            found = await original(store, *args, **more)
            self.reached = True
            if self.times:
                self.times -= 1
                await self.opened.wait()
            return found

        patch.setattr(SqliteStore, method, slow)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A test that fails leaves nothing hanging.
        self.opened.set()


async def with_a_tool_at_work(
    opened: OpenSuite, folder: Path
) -> tuple[Suite, run_pb2.Run, input_pb2.InputRequest]:
    """A run of which one call is under way while another one waits for approval."""
    calls = [{"name": f"tools__{name}", "id": name} for name in ("hold", "count")]
    suite = await opened(
        {"turns": [{"tool_calls": calls}, {"text": "done"}]},
        agents={"b": {"mcp_servers": ["tools"], "tool_policies": [{"tool": "count", "approval": "always"}]}},
        mcp_servers={"tools": stdio_server(folder)},
    )
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await until(suite.notes, "the tool is called")
    return suite, run, request


async def test_an_answer_that_is_on_its_way_when_its_run_lets_go_takes_it_up_again(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, run, request = await with_a_tool_at_work(opened, tmp_path)
    with Gate(monkeypatch, "take_commands") as gate:
        approving = asyncio.create_task(suite.client.inputs.approve(request))
        await until(lambda: gate.reached, "the word is taken and not told")
        (tmp_path / "release").touch()
        assert (await suite.ended(run.run_id)).result.output == "done"
    await approving
    check_story(await suite.watched(run.run_id))


async def test_an_answer_that_is_read_while_its_run_ends_does_not_follow_the_end(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, run, request = await with_a_tool_at_work(opened, tmp_path)
    with Gate(monkeypatch, "answered_inputs", times=2) as gate:
        approving = asyncio.create_task(suite.client.inputs.approve(request))
        await until(lambda: gate.reached, "the answer is read")
        cancelling = asyncio.create_task(suite.client.runs.cancel(run.run_id))
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
        told = await suite.watched(run.run_id)
    await asyncio.gather(approving, cancelling)
    # What is accepted now is stored after anything that was to be stored before.
    assert (await suite.story("a"))[-1].HasField("run_finished")
    assert await suite.watched(run.run_id) == told
    check_story(told)


async def test_an_answer_that_comes_while_others_are_read_is_heard(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [{"name": f"tools__{name}", "id": name} for name in ("look", "count")]
    suite = await opened(
        {"turns": [{"tool_calls": calls}, {"text": "done"}]},
        agents={"b": {"mcp_servers": ["tools"], "tool_policies": ALWAYS}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    first, second = await suite.asked(run.run_id, 2)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    with Gate(monkeypatch, "answered_inputs") as gate:
        await suite.client.inputs.approve(first)
        await until(lambda: gate.reached, "the first answer is read")
        await suite.client.inputs.approve(second)
    assert (await suite.ended(run.run_id)).result.output == "done"
    assert len(suite.notes()) == 2
    check_story(await suite.watched(run.run_id))


async def test_a_caller_that_goes_away_in_the_middle_leaves_its_answer_and_the_run_goes_on(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = await with_calls(opened, tmp_path, ["count"])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    with Gate(monkeypatch, "claim") as gate:
        approving = asyncio.create_task(suite.client.inputs.approve(request))
        await until(lambda: gate.reached, "the run is claimed")
        approving.cancel()
        # The server hears of one after the other.
        assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    assert (await suite.ended(run.run_id)).result.output == "done: ok"
    check_story(await suite.watched(run.run_id))


async def test_a_run_that_is_taken_up_waits_for_a_store_that_is_away(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = await with_calls(opened, tmp_path, ["count"])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    original, tries = SqliteStore.answered_inputs, []

    async def away(store: SqliteStore, root_run_id: str) -> list[InputRow]:
        tries.append(root_run_id)
        if len(tries) <= 2:
            raise StoreUnavailableError("away", store="sqlite")
        return await original(store, root_run_id)

    monkeypatch.setattr(SqliteStore, "answered_inputs", away)
    await suite.client.inputs.approve(request)
    assert (await suite.ended(run.run_id)).result.output == "done: ok"
    assert len(tries) == 3
    check_story(await suite.watched(run.run_id))
