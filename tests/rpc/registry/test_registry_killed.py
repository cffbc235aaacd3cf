"""The registry's process is killed while many write: all that it answered is there, and nothing half done."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from retinue.client import Components, open_client
from retinue.errors import RetinueError, ServiceUnavailableError, StoreUnavailableError
from retinue.registry.v1 import component_pb2, service_pb2
from retinue_registry.settings import RegistrySettings
from retinue_registry.stores.check import find_problems
from tests.contract.registry_store.breaking import open_breaking
from tests.rpc.registry.serving import LLM, llm, process, serving
from tests.servers.mongodb import given_uri, run_mongodb

WRITES = 1000 if os.environ.get("RETINUE_CHAOS") == "long" else 200
KILLS = WRITES // 100
WRITERS = 8
BOUND_S = 30.0 + WRITES / 5


@dataclass
class Told:
    """What writers asked for, and what they were told."""

    asked: dict[str, list[component_pb2.Component]] = field(default_factory=dict)
    """By request_id."""
    answers: dict[str, service_pb2.ApplyComponentsResponse] = field(default_factory=dict)
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the registry is to be killed."""

    @property
    def open(self) -> set[str]:
        """Requests without an answer."""
        return self.asked.keys() - self.answers.keys()


async def _write(components: Components, writer: int, told: Told, until: int) -> None:
    """Store pairs of which the second follows the first, until nobody answers."""
    for turn in range(WRITES):
        pair = [llm(f"x-{writer}", f"{len(told.asked)}"), llm(f"y-{writer}", f"{len(told.asked)}")]
        request_id = f"{until}-{writer}-{turn}"
        told.asked[request_id] = pair
        try:
            told.answers[request_id] = await components.apply(pair, request_id=request_id)
        except ServiceUnavailableError:
            return
        if len(told.answers) >= until:
            told.enough.set()


async def _write_until_killed(root: Path, store: dict[str, str], told: Told, until: int) -> None:
    told.enough.clear()
    async with (
        process(root, **store) as running,
        open_client(registry=running.address) as client,
        asyncio.timeout(BOUND_S),
        asyncio.TaskGroup() as group,
    ):
        for writer in range(WRITERS):
            group.create_task(_write(client.components, writer, told, until))
        await told.enough.wait()
        await running.kill()


async def _history(components: Components) -> list[service_pb2.ComponentChange]:
    head = await components.revision()
    found: list[service_pb2.ComponentChange] = []
    async for response in components.watch():
        found += response.changes
        if response.through_revision >= head:
            return found
    raise AssertionError("the watch ended")


def _check(history: list[service_pb2.ComponentChange], told: Told) -> set[str]:
    """Assert that a history is that of whole requests; return those that were stored unanswered."""
    assert [change.revision for change in history] == list(range(1, len(history) + 1))
    by_model: dict[str, list[component_pb2.Component]] = {}
    for change in history:
        by_model.setdefault(change.component.llm.model, []).append(change.component)
    requests = {pair[0].llm.model: request_id for request_id, pair in told.asked.items()}
    stored = {requests[model] for model in by_model}
    for components in by_model.values():
        first, second = components
        assert (first.name[1:], first.version, first.revision + 1) == (
            second.name[1:],
            second.version,
            second.revision,
        )
    for request_id, answer in told.answers.items():
        model = told.asked[request_id][0].llm.model
        assert [applied.component for applied in answer.applied] == by_model[model]
    assert told.answers.keys() <= stored
    return stored - told.answers.keys()


@asynccontextmanager
async def _store(kind: str, folder: Path) -> AsyncIterator[dict[str, str]]:
    """The settings of a store."""
    with ExitStack() as stack:
        if kind == "sqlite":
            yield {}
            return
        uri = given_uri()
        if uri is None:
            (folder / "mongodb").mkdir()
            uri = stack.enter_context(run_mongodb(folder / "mongodb", sync=False)).uri()
        yield {"RETINUE_REGISTRY_STORE": uri}


@pytest.mark.parametrize("kind", ["sqlite", "mongodb"])
@pytest.mark.timeout(BOUND_S * (KILLS + 2))
async def test_a_killed_registry_has_all_that_it_answered_and_nothing_half_done(
    kind: str, tmp_path: Path
) -> None:
    told = Told()
    async with _store(kind, tmp_path) as store:
        for kill in range(1, KILLS + 1):
            await _write_until_killed(tmp_path, store, told, kill * WRITES // KILLS)
            # Each writer had one request under way.
            assert len(told.open) <= WRITERS
            async with (
                asyncio.timeout(BOUND_S),
                process(tmp_path, **store) as running,
                open_client(registry=running.address) as client,
            ):
                unanswered = _check(await _history(client.components), told)
                assert unanswered <= told.open
                if unanswered:
                    found = await client.components.revision()
                    for request_id in unanswered:
                        told.answers[request_id] = await client.components.apply(
                            told.asked[request_id], request_id=request_id
                        )
                    assert await client.components.revision() == found
                again = next(iter(told.answers))
                answer = await client.components.apply(told.asked[again], request_id=again)
                assert answer == told.answers[again]
                for request_id in sorted(told.open):
                    told.answers[request_id] = await client.components.apply(
                        told.asked[request_id], request_id=request_id
                    )
                assert not _check(await _history(client.components), told)
        chosen = {"registry_store": uri} if (uri := store.get("RETINUE_REGISTRY_STORE")) else {}
        assert await find_problems(RegistrySettings(project=tmp_path, **chosen)) == []


async def test_a_registry_that_was_taken_over_reads_on_and_says_so_when_it_is_to_write(
    tmp_path: Path,
) -> None:
    async with (
        _store("mongodb", tmp_path) as store,
        asyncio.timeout(BOUND_S),
        process(tmp_path, **store) as first,
        open_client(registry=first.address) as one,
    ):
        await one.components.apply([llm("fast")])
        async with process(tmp_path, **store) as second, open_client(registry=second.address) as two:
            await two.components.apply([llm("slow")])
            for _ in range(2):
                with pytest.raises(RetinueError, match="another registry has taken over"):
                    await one.components.apply([llm("other")])
            assert [each.name async for each in one.components.list()] == ["fast"]
            assert [each.name async for each in two.components.list()] == ["fast", "slow"]


COUNT = b"update\x00\x09\x00\x00\x00registry"
"""The command that makes a write count."""


async def test_a_write_that_was_stored_as_the_database_was_lost_is_shown_once_and_answered_again(
    tmp_path: Path,
) -> None:
    async with _store("mongodb", tmp_path) as store, asyncio.timeout(BOUND_S):
        with open_breaking(store["RETINUE_REGISTRY_STORE"]) as way:
            async with serving(tmp_path, registry_store=way.uri()) as components:
                await components.apply([llm("fast")])
                async with aclosing(cast(Any, components.watch(after_revision=1))) as watch:
                    await anext(watch)
                    way.break_at(COUNT, answered=True, stays_down=True)
                    with pytest.raises(StoreUnavailableError):
                        await components.apply([llm("slow")], request_id="r")
                    assert [each.name async for each in components.list()] == ["fast"]
                    way.down = False
                    answer = await components.apply([llm("slow")], request_id="r")
                    assert answer.applied[0].outcome == service_pb2.APPLY_OUTCOME_CREATED
                    assert (await components.get(LLM, "slow")).revision == answer.revision == 2
                    await components.apply([llm("other")])
                    seen: list[str] = []
                    while len(seen) < 2:
                        seen += [change.component.name for change in (await anext(watch)).changes]
                    assert seen == ["slow", "other"]
                history = await _history(components)
                assert [change.component.name for change in history] == ["fast", "slow", "other"]
