"""What is not kept: old versions, with what watchers from before are told, and answers of long ago."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from retinue.client import Components
from retinue.errors import ComponentNotFoundError, RevisionCompactedError
from retinue.registry.v1 import service_pb2
from retinue_registry.convert import ProtoCodec
from retinue_registry.registry import open_registry
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import Write
from tests.contract.registry_store.rows import fill, key, record, version
from tests.rpc.registry.serving import BOUND_S, LLM, llm, serving
from tests.suite import until


async def _first_answer(components: Components, after: int) -> service_pb2.WatchComponentsResponse:
    async with asyncio.timeout(BOUND_S), aclosing(cast(Any, components.watch(after_revision=after))) as watch:
        return cast(service_pb2.WatchComponentsResponse, await anext(watch))


async def test_what_is_not_kept_is_gone_after_a_start_and_a_watch_from_before_is_refused(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as components:
        for number in range(1, 9):
            await components.apply([llm("fast", f"m{number}")], request_id=f"r{number}")
        await components.apply([llm("slow")])
    async with serving(tmp_path, retain_versions=3) as components:

        async def gone() -> bool:
            try:
                await components.get(LLM, "fast", version=4)
            except ComponentNotFoundError:
                return True
            return False

        await until(gone, "version 4 is gone")
        assert (await components.get(LLM, "fast", version=5)).llm.model == "m5"
        for after in (0, 3):
            with pytest.raises(RevisionCompactedError, match="list again, and watch") as caught:
                await _first_answer(components, after)
            assert caught.value.facts == {"after_revision": f"{after}", "oldest_revision": "4"}
        assert (await _first_answer(components, 4)).through_revision == 4
        with pytest.raises(RevisionCompactedError, match="get the components as they are now"):
            await components.apply([llm("fast", "m2")], request_id="r2")
        again = await components.apply([llm("fast", "m7")], request_id="r7")
        assert again.applied[0].component.version == 7
        assert (await components.get(LLM, "fast")).version == 8
    async with serving(tmp_path, retain_requests_hours=1e-9) as components:

        async def forgotten() -> bool:
            answer = await components.apply([llm("fast", "m8")], request_id="r8")
            return answer.applied[0].outcome == service_pb2.APPLY_OUTCOME_UNCHANGED

        await until(forgotten, "the request is forgotten")


async def test_the_current_one_the_end_and_what_it_ended_are_always_kept(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path / "registry.db") as store:
        await fill(store, *(version(key("a"), number, number, deleted=number == 3) for number in range(1, 6)))
        await fill(
            store, *(version(key("b"), number, 5 + number, deleted=number == 4) for number in range(1, 5))
        )
        await store.write(Write(9, 9, request=record("long ago", 9)))
        async with open_registry(store, ProtoCodec()) as registry:
            # Of `a` the end that would be the oldest goes too; it ends what is not there any more.
            assert await registry.retention.sweep(versions=2, requests_hours=1) == (3 + 1, 1)
            assert [each.version for each in await store.versions(key("a"), 0, 9)] == [5, 4]
            assert [each.version for each in await store.versions(key("b"), 0, 9)] == [4, 3, 2]
            assert await registry.retention.sweep(versions=2, requests_hours=1) == (0, 0)
            assert await registry.retention.sweep(versions=1, requests_hours=1) == (1, 0)
            assert [each.version for each in await store.versions(key("b"), 0, 9)] == [4, 3]
        ends = [change for change in await store.changes("default", 7, 9, 10) if change.after.deleted]
        assert ends
        assert all(change.before for change in ends)


async def test_a_watch_that_is_overtaken_by_the_removal_of_what_it_has_not_seen_is_told(
    tmp_path: Path,
) -> None:
    async with open_sqlite_store(tmp_path / "registry.db") as store:
        await fill(store, *(version(key("a"), number, number) for number in range(1, 451)))
        async with (
            open_registry(store, ProtoCodec()) as registry,
            aclosing(registry.watch("default", 0)) as watch,
        ):
            for through in (0, 200):
                assert (await anext(watch)).through_revision == through
            assert await registry.retention.sweep(versions=100, requests_hours=1) == (349, 0)
            with pytest.raises(RevisionCompactedError) as caught:
                await anext(watch)
            assert caught.value.facts == {"after_revision": "200", "oldest_revision": "349"}
