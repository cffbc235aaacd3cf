"""Watching: every change once, in order, from any revision, through broken connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from retinue.client import Components
from retinue.errors import InvalidArgumentError, ServiceUnavailableError
from retinue.registry.v1 import service_pb2
from retinue_registry.component import ApiSource, Change, Key, Version
from retinue_registry.feed import Feed
from tests.rpc.registry.serving import BOUND_S, agent, llm, server, serving

DELETED = service_pb2.CHANGE_TYPE_DELETED
STORED = service_pb2.CHANGE_TYPE_STORED


def watching(components: Components, after: int = 0) -> Any:
    """A watch that is closed at the end of the block."""
    return aclosing(cast(Any, components.watch(after_revision=after)))


async def changes_through(
    watch: AsyncIterator[service_pb2.WatchComponentsResponse], revision: int
) -> list[service_pb2.ComponentChange]:
    """What comes until nothing at or before a revision is still to come."""
    found: list[service_pb2.ComponentChange] = []
    async with asyncio.timeout(BOUND_S):
        async for response in watch:
            found += response.changes
            if response.through_revision >= revision:
                return found
    pytest.fail("the watch ended")


async def test_the_first_answer_comes_at_once_and_says_that_the_watch_stands(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        revision = (await components.apply([llm("fast")])).revision
        async with asyncio.timeout(BOUND_S), watching(components, revision) as watch:
            first = await anext(watch)
            assert not first.changes
            assert first.through_revision == revision


async def test_history_and_live_changes_come_once_and_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        for number in range(450):
            await components.apply([llm("fast", f"m{number}")])
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:

            async def write() -> None:
                for number in range(450, 600):
                    await components.apply([llm("fast", f"m{number}")])

            async with watching(components, 5) as watch:
                group.create_task(write())
                found = await changes_through(watch, 600)
        assert [change.revision for change in found] == list(range(6, 601))
        assert [change.component.llm.model for change in found] == [f"m{n}" for n in range(5, 600)]
        assert all(change.component.revision == change.revision for change in found)


async def test_a_watch_goes_on_where_a_broken_one_stopped(tmp_path: Path) -> None:
    seen: list[int] = []
    through = 0
    for turn in range(4):  # each turn is another process's life of the same store
        async with serving(tmp_path) as components:
            await components.apply([llm(f"a{turn}"), llm(f"b{turn}")])
            async with watching(components, through) as watch:
                await components.apply([llm(f"c{turn}")])
                found = await changes_through(watch, 3 * turn + 3)
                seen += [change.revision for change in found]
                through = seen[-1]
            await components.apply([llm("fast", f"while nobody watched {turn}")])
            through_missing = await _missing(components, through)
            seen += through_missing
            through = seen[-1]
            assert seen == list(range(1, through + 1))


async def _missing(components: Components, through: int) -> list[int]:
    async with watching(components, through) as watch:
        return [change.revision for change in await changes_through(watch, through + 1)]


async def test_a_change_in_another_namespace_is_not_seen_and_moves_the_cursor(tmp_path: Path) -> None:
    async with serving(tmp_path, watch_heartbeat_s=0.05) as components, watching(components) as watch:
        await anext(watch)
        await components.apply([llm("fast", namespace="other")])
        assert await changes_through(watch, 1) == []
        await components.apply([llm("fast")])
        (change,) = await changes_through(watch, 2)
        assert (change.type, change.revision) == (STORED, 2)


async def test_a_silent_watch_says_that_it_stands(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, watch_heartbeat_s=0.05) as components,
        asyncio.timeout(BOUND_S),
        watching(components) as watch,
    ):
        for _ in range(4):
            response = await anext(watch)
            assert not response.changes
            assert response.through_revision == 0


@pytest.mark.parametrize("after", [-1, 2])
async def test_a_revision_that_is_not_reached_is_refused(tmp_path: Path, after: int) -> None:
    async with serving(tmp_path) as components:
        await components.apply([llm("fast")])
        with pytest.raises(InvalidArgumentError, match="after_revision") as caught:
            async with watching(components, after) as watch:
                await anext(watch)
        assert caught.value.violations[0].field == "after_revision"


async def test_what_leaves_the_files_is_seen_as_deleted_with_what_it_was(tmp_path: Path) -> None:
    anchor = tmp_path / "retinue.yaml"
    anchor.write_text("llms:\n  fast: {model: m}\n  slow: {model: s}\n")
    async with serving(tmp_path):
        pass
    anchor.write_text("llms:\n  fast: {model: m}\n")
    async with serving(tmp_path) as components, watching(components) as watch:
        found = await changes_through(watch, 3)
        assert [(change.type, change.component.name, change.revision) for change in found] == [
            (STORED, "fast", 1),
            (STORED, "slow", 2),
            (DELETED, "slow", 3),
        ]
        assert found[2].component == found[1].component


async def test_many_watchers_each_see_every_change(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
            standing = asyncio.Semaphore(0)

            async def watch_all() -> list[int]:
                async with watching(components) as watch:
                    await anext(watch)
                    standing.release()
                    return [change.revision for change in await changes_through(watch, 3)]

            tasks = [group.create_task(watch_all()) for _ in range(100)]
            for _ in tasks:
                await standing.acquire()
            await components.apply([llm("fast"), server("time"), agent("a")])
        assert all(task.result() == [1, 2, 3] for task in tasks)


async def test_a_watcher_that_does_not_read_is_dropped_and_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path, watch_queue_size=3) as components:
        await components.apply([llm("fast")])
        async with watching(components, 1) as slow:
            await anext(slow)
            # Large enough to fill what gRPC itself keeps for a reader that does not read.
            for number in range(60):
                await components.apply([agent("a", system_prompt=f"{number:03}" * 200_000)])
            seen: list[int] = []

            async def read_on() -> None:
                async for response in slow:
                    seen.extend(change.revision for change in response.changes)

            with pytest.raises(ServiceUnavailableError, match="changes behind"):
                await asyncio.wait_for(read_on(), BOUND_S)
            assert seen == list(range(2, 2 + len(seen)))
            assert len(seen) < 60
        through = seen[-1] if seen else 1
        async with watching(components, through) as again:
            found = await changes_through(again, 61)
            assert [change.revision for change in found] == list(range(through + 1, 62))


def _change(revision: int) -> Change:
    key = Key("default", "llm", "a")
    return Change(revision, Version(key, revision, revision, "", {}, b"", ApiSource(), 0, 0))


async def test_a_set_that_is_larger_than_the_queue_reaches_a_watcher_that_keeps_up() -> None:
    feed = Feed(2)
    with feed.watch("default") as watcher:
        feed.publish([_change(n) for n in range(1, 11)])
        assert [change.revision for change in await watcher.take(100, 1)] == list(range(1, 11))
        feed.publish([_change(11), _change(12)])
        feed.publish([_change(13)])
        with pytest.raises(ServiceUnavailableError):
            await watcher.take(100, 1)
