"""Texts that are kept: by rpc and by workflows, once each, whatever happens to the engine."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.errors import (
    InvalidArgumentError,
    MemoryNotFoundError,
    PayloadTooLargeError,
    RequestIdReusedError,
)
from tests.suite import Suite, open_processes, until

OpenSuite = Callable[..., Awaitable[Suite]]

WRITE = {
    "name": "keep",
    "memory_write": {
        "text": "{{ input }} are busy",
        "labels": {"about": "{{ input }}"},
        "expire_after": "1h",
    },
}
READ = {
    "name": "find",
    "memory_read": {"query": "who is busy?", "labels": {"about": "{{ input }}"}, "limit": 1},
}


async def texts(suite: Suite, **labels: str) -> list[str]:
    return [each.text async for each in suite.client.memories.list(labels=labels)]


async def test_a_text_is_written_found_listed_and_forgotten_by_rpc(opened: OpenSuite) -> None:
    memories = (await opened()).client.memories
    first = await memories.write("Bees dance", labels={"about": "bees"}, expire_after=timedelta(hours=1))
    await memories.write("Wasps do not dance")
    assert first.expire_time.ToMicroseconds() - first.create_time.ToMicroseconds() == 3_600_000_000
    assert await memories.get(first.memory_id) == first
    assert [each.text for each in await memories.search("dance bees")] == ["Bees dance", "Wasps do not dance"]
    assert [each.text for each in await memories.search("dance", limit=1)] == ["Wasps do not dance"]
    assert [each.text async for each in memories.list(page_size=1)] == ["Wasps do not dance", "Bees dance"]
    await memories.delete(first.memory_id)
    for call in (memories.get, memories.delete):
        with pytest.raises(MemoryNotFoundError):
            await call(first.memory_id)


async def test_a_request_sent_again_keeps_one_text_and_its_id_serves_no_other(opened: OpenSuite) -> None:
    memories = (await opened()).client.memories
    first = await memories.write("one", request_id="r")
    assert await memories.write("one", request_id="r") == first
    with pytest.raises(RequestIdReusedError):
        await memories.write("two", request_id="r")
    assert [each.text async for each in memories.list()] == ["one"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda memories: memories.write(" \n"), InvalidArgumentError),
        (lambda memories: memories.write("x" * 65537), PayloadTooLargeError),
        (lambda memories: memories.write("x", labels={"": "y"}), InvalidArgumentError),
        (lambda memories: memories.write("x", labels={f"{n}": "" for n in range(65)}), InvalidArgumentError),
        (lambda memories: memories.write("x", expire_after=timedelta(0)), InvalidArgumentError),
        (lambda memories: memories.write("x", request_id="r" * 129), InvalidArgumentError),
        (lambda memories: memories.search("?!"), InvalidArgumentError),
        (lambda memories: memories.search("x", limit=101), InvalidArgumentError),
    ],
)
async def test_what_cannot_be_kept_or_found_is_refused(
    opened: OpenSuite, call: Callable[[Any], Awaitable[Any]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await call((await opened()).client.memories)


async def test_a_workflow_keeps_a_text_and_the_next_step_and_run_find_it(opened: OpenSuite) -> None:
    read_only = {"steps": [READ]}
    suite = await opened(linear_workflows={"flow": {"steps": [WRITE, READ]}, "read": read_only})
    events = await suite.story("flow", "bees")
    (written,) = (each.memory_written for each in events if each.HasField("memory_written"))
    found = [{"id": written.memory.memory_id, "text": "bees are busy", "labels": {"about": "bees"}}]
    assert json.loads(events[-1].run_finished.result.output) == found
    assert written.memory.run_id == events[0].run_id
    assert written.memory.HasField("expire_time")
    assert json.loads((await suite.result("read", "bees")).output) == found
    assert json.loads((await suite.result("read", "wasps")).output) == []


async def test_a_text_that_is_too_large_or_empty_fails_its_step(opened: OpenSuite) -> None:
    steps = [{"name": "keep", "memory_write": {"text": "{{ input }}"}}]
    suite = await opened(linear_workflows={"flow": {"steps": steps}})
    assert (await suite.result("flow", "x" * 65537)).error.reason == pb.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert (await suite.result("flow", " ")).error.reason == pb.ERROR_REASON_INVALID_ARGUMENT


async def test_an_engine_that_is_killed_keeps_each_text_once(tmp_path: Path) -> None:
    each = {"steps": [WRITE, {"name": "wait", "agent": "a"}]}
    hangs = {"rules": [{"times": 1, "hang": True}], "default": {"text": "done"}}
    async with open_processes(tmp_path, hangs, linear_workflows={"flow": each}) as suite:
        run = await suite.client.runs.start("flow", "bees")
        await until(lambda: suite.model.requests, "the model is asked")
        assert await texts(suite) == ["bees are busy"]
        await suite.engine_process.kill()
        await suite.engine_process.start()
        ended = await suite.ended(run.run_id, 30)
        assert ended.result.output == "done"
        assert await texts(suite) == ["bees are busy"]


async def retinue(suite: Suite, *arguments: str) -> tuple[int, str]:
    """The exit status of `retinue memory`, and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "retinue_cli", "memory", *arguments, "--engine", suite.engine),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=suite.folder,
    )
    async with asyncio.timeout(30):
        out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def test_people_keep_find_and_forget_texts_by_the_command(opened: OpenSuite) -> None:
    suite = await opened()
    kept = ["write", "Bees dance", "--label", "about=bees", "--expire-after", "1h", "--request-id", "r"]
    status, out = await retinue(suite, *kept)
    memory_id = out.strip()
    assert status == 0
    assert await retinue(suite, *kept) == (0, out)
    status, found = await retinue(suite, "search", "who dances? BEES", "--json")
    assert json.loads(found)["memories"][0]["memory_id"] == memory_id
    status, listed = await retinue(suite, "list", "--label", "about=bees")
    assert listed.splitlines()[1].split() == [memory_id, "about=bees", "Bees", "dance"]
    assert await retinue(suite, "get", memory_id) == (0, "Bees dance\n")
    assert (await retinue(suite, "delete", memory_id))[0] == 0
    status, said = await retinue(suite, "get", memory_id)
    assert status == 1
    assert "`retinue memory list` lists them" in said
