"""What only the MongoDB store promises."""

import asyncio
import dataclasses
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import monitoring

from retinue.errors import StoreUnavailableError
from retinue_registry.component import FileSource
from retinue_registry.stores.mongo.moves import _updates
from retinue_registry.stores.mongo.schema import collections_of
from retinue_registry.stores.mongo.store import MongoStore, open_mongo_store
from retinue_registry.stores.store import Write

from .breaking import Breaking, open_breaking
from .dying import FIRST, LAST, LAST_CHANGES, MOVED, SECOND
from .rows import fill, key, record, version

ROOT = Path(__file__).parents[3]
BOUND_S = 30.0
WRITES = frozenset({"insert", "update", "delete", "findAndModify"})

COUNT = b"update\x00\x09\x00\x00\x00registry"
"""The command that makes a write count."""
INSERT = b"insert\x00\x13\x00\x00\x00component_versions"


@asynccontextmanager
async def database(uri: str) -> AsyncIterator[Any]:
    client: Any = AsyncIOMotorClient(uri)
    try:
        yield client.get_default_database()
    finally:
        client.close()


async def test_an_address_that_cannot_be_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"names no database.*27017/retinue_registry"):
        async with open_mongo_store("mongodb://127.0.0.1:27017/?w=1"):
            pass
    with pytest.raises(ValueError, match="RETINUE_REGISTRY_STORE cannot be used"):
        async with open_mongo_store("mongodb://host:port/x"):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        address = f"mongodb://127.0.0.1:{taken.getsockname()[1]}/x?serverSelectionTimeoutMS=200"
        with pytest.raises(StoreUnavailableError, match="see that it runs and that RETINUE_REGISTRY_STORE"):
            async with open_mongo_store(address):
                pass


async def test_a_database_of_a_newer_version_is_refused_and_left_to_its_owner(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as store, database(mongodb_uri) as raw:
        await raw.registry.update_one({}, {"$set": {"version": 99}})
        with pytest.raises(StoreUnavailableError, match="has version 99"):
            async with open_mongo_store(mongodb_uri):
                pytest.fail("it was opened")
        await fill(store, version(key("a"), 1, 1))


async def test_the_last_one_that_starts_owns_the_database(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as first:
        await fill(first, FIRST)
        async with open_mongo_store(mongodb_uri) as second:
            with pytest.raises(StoreUnavailableError, match="another registry has taken over"):
                await fill(first, SECOND)
            await fill(second, SECOND, version(key("c"), 1, 3))
            for write in (LAST, Write(1, 1, moved=[MOVED]), Write(1, 2, [SECOND], request=record("r", 2))):
                with pytest.raises(StoreUnavailableError):
                    await first.write(write)
            with pytest.raises(StoreUnavailableError, match="another registry has taken over"):
                await first.remove_versions(FIRST.key, 2, 10)
            with pytest.raises(StoreUnavailableError, match="another registry has taken over"):
                await first.remove_requests(10, 10)
            assert await first.current() == [FIRST]
            assert await first.changes("default", 0, 1, 10)
            assert await second.at([1, 2, 3]) == [FIRST, SECOND, version(key("c"), 1, 3)]
            assert await second.request("default", "r") is None
            assert await second.revision() == 3


class _Held:
    """The head's collection for a store that stands still before a write counts."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    async def update_one(self, *args: Any) -> Any:
        self.reached.set()
        await self.go_on.wait()
        return await self._collection.update_one(*args)


async def test_a_write_under_way_is_not_seen_and_leaves_nothing_at_a_takeover(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as first, asyncio.timeout(BOUND_S):
        await fill(first, FIRST)
        held = _Held(first._head._collection)
        first._head._collection = held
        versions = [version(key("a"), 2, 2), version(key("c"), 1, 3)]
        write = asyncio.create_task(fill(first, *versions, request=record("r", 3)))
        await held.reached.wait()
        assert await first.current() == await first.versions(FIRST.key, 0, 10) == [FIRST]
        assert len(await first.changes("default", 0, 3, 10)) == 1
        assert await first.version(FIRST.key, 2) is await first.request("default", "r") is None
        async with open_mongo_store(mongodb_uri) as second, database(mongodb_uri) as raw:
            assert await raw.component_versions.count_documents({}) == 1
            other = version(key("other"), 1, 2)
            await fill(second, other)
            held.go_on.set()
            with pytest.raises(StoreUnavailableError, match="another registry has taken over"):
                await write
            assert await second.at([1, 2]) == [FIRST, other]
            assert await second.request("default", "r") is None


async def test_an_owner_that_cleans_up_late_removes_nothing_of_the_next_one(mongodb_uri: str) -> None:
    async with database(mongodb_uri) as raw:
        late = MongoStore(collections_of(raw))
        await late._head.take()
        async with open_mongo_store(mongodb_uri) as store:
            await fill(store, FIRST, request=record("r", 1))
            await store.write(Write(1, 1, moved=[MOVED]))
            await late._writes._remove_leftovers()
            await fill(store, SECOND)
            assert await store.at([1, 2]) == [MOVED, SECOND]
            assert await store.request("default", "r") == record("r", 1)


@pytest.mark.parametrize("commands", [1, 4, LAST_CHANGES - 1, LAST_CHANGES])
async def test_a_writer_killed_between_the_parts_of_a_write_leaves_nothing_half_done(
    mongodb_uri: str, commands: int
) -> None:
    dying = [sys.executable, "-m", "tests.contract.registry_store.dying", mongodb_uri, str(commands)]
    done = await asyncio.to_thread(subprocess.run, dying, cwd=ROOT, check=False, timeout=BOUND_S)
    assert done.returncode == -signal.SIGKILL
    async with open_mongo_store(mongodb_uri) as store:
        if commands < LAST_CHANGES:
            assert await store.revision() == 2
            assert await store.request("default", "r") is None
            assert sorted(await store.current(), key=lambda each: each.key) == [MOVED, SECOND]
            await store.write(LAST)
        assert await store.revision() == 4
        assert await store.request("default", "r") == LAST.request
        end, other = LAST.versions
        assert sorted(await store.current(), key=lambda each: each.key) == [end, *LAST.moved, other]
        assert await store.at([1]) == [MOVED]
        (change,) = await store.changes("default", 2, 3, 10)
        assert (change.after, change.before) == (end, MOVED)
    async with database(mongodb_uri) as raw:
        assert await raw.component_versions.count_documents({}) == 4
        assert await raw.component_requests.count_documents({}) == 1


@asynccontextmanager
async def _broken_at(uri: str, needle: bytes, *, answered: bool) -> AsyncIterator[tuple[Any, Breaking]]:
    with open_breaking(uri) as way:
        async with open_mongo_store(way.uri()) as store:
            await fill(store, FIRST)
            way.break_at(needle, answered=answered)
            yield store, way


@pytest.mark.parametrize(("needle", "answered"), [(INSERT, False), (INSERT, True), (COUNT, False)])
async def test_a_write_that_was_cut_off_is_not_there_and_can_be_tried_again(
    mongodb_uri: str, needle: bytes, answered: bool
) -> None:
    write = Write(1, 2, [SECOND], [MOVED], record("r", 2))
    async with _broken_at(mongodb_uri, needle, answered=answered) as (store, _):
        owner = store._head.owner
        with pytest.raises(StoreUnavailableError, match="connection to MongoDB broke"):
            await store.write(write)
        assert await store.revision() == 1
        # What would make it count and comes late, after it was said that it is not stored, does nothing.
        if needle == COUNT:
            late = await store._head._collection.update_one(
                {"_id": "head", "owner": owner}, {"$set": {"revision": 2}}
            )
            assert late.matched_count == 0
        assert await store.request("default", "r") is None
        await store.write(write)
        assert await store.at([1, 2]) == [MOVED, SECOND]
        assert await store.request("default", "r") == record("r", 2)


async def test_a_write_whose_answer_was_cut_off_is_known_to_be_stored(mongodb_uri: str) -> None:
    async with _broken_at(mongodb_uri, COUNT, answered=True) as (store, _):
        await fill(store, SECOND)
        assert await store.at([2]) == [SECOND]
        await fill(store, version(key("c"), 1, 3))
        assert await store.revision() == 3


async def test_what_became_of_a_write_is_told_when_the_server_is_back(mongodb_uri: str) -> None:
    write = Write(1, 2, [SECOND], [MOVED])
    async with _broken_at(mongodb_uri, b"", answered=True) as (store, way):
        way.break_at(COUNT, answered=True, stays_down=True)
        with pytest.raises(StoreUnavailableError):
            await store.write(write)
        with pytest.raises(StoreUnavailableError):
            await store.revision()
        way.down = False
        assert await store.revision() == 2
        assert await store.at([1, 2]) == [MOVED, SECOND]


class _Commands(monitoring.CommandListener):
    """What MongoDB is asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.seen.append({**event.command, "$name": event.command_name})

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


async def test_every_query_uses_an_index_and_every_write_is_durable(mongodb_uri: str) -> None:
    commands = _Commands()
    monitoring.register(commands)  # for the clients that are made from now on
    try:
        async with open_mongo_store(mongodb_uri) as store:
            await fill(store, FIRST, SECOND, request=record("q", 2))
            await store.write(Write(2, 2, moved=[MOVED]))
            await store.write(LAST)
            await store.request("default", "r")
            await store.current()
            await store.version(SECOND.key, 1)
            await store.versions(SECOND.key, 5, 10)
            await store.changes("default", 0, 4, 10)
            await store.remove_versions(FIRST.key, 2, 10)
            await store.remove_requests(10, 10)
    finally:
        monitoring._LISTENERS.command_listeners.remove(commands)
    assert {each["$name"] for each in commands.seen} >= {"find", "aggregate", *WRITES}
    for each in commands.seen:
        if each["$name"] in WRITES:
            assert each["writeConcern"] == {"w": "majority", "j": True, "wtimeout": 10_000}
    fields = {
        "registry": [["_id"]],
        "component_versions": [["_id"], ["namespace", "_id"], ["namespace", "kind", "name", "version"]],
        "component_requests": [["_id"], ["namespace", "request_id"], ["time_us"]],
        "component_moves": [["_id"]],
    }
    async with database(mongodb_uri) as raw:
        for collection, expected in fields.items():
            indexes = await raw[collection].list_indexes().to_list(None)
            assert sorted(list(index["key"]) for index in indexes) == sorted(expected)
        for collection, looked_for, sort in _looks(commands.seen):
            # An index whose first field is given, and in whose order the answer comes.
            assert any(
                index[0] in looked_for and (not sort or [*index][-len(sort) :] == sort or index == sort)
                for index in fields[collection]
            ), (collection, looked_for, sort)


def _looks(seen: list[dict[str, Any]]) -> list[tuple[str, set[str], list[str]]]:
    """What commands look for: the collection, the fields of the filter, and those of the order."""
    found = []
    for command in seen:
        name = command["$name"]
        filters = {
            "find": lambda each: [each["filter"]],
            "findAndModify": lambda each: [each["query"]],
            "update": lambda each: [one["q"] for one in each["updates"]],
            "delete": lambda each: [one["q"] for one in each["deletes"]],
        }.get(name, lambda _: [])(command)
        for one in filters:
            order = list(command.get("sort", {}))
            found += [(command[name], set(part), order) for part in one.get("$or", [one])]
    return found


async def test_a_fold_that_comes_late_does_not_undo_a_later_one(mongodb_uri: str) -> None:
    newest = dataclasses.replace(FIRST, source=FileSource("newest.yaml", 1))
    async with open_mongo_store(mongodb_uri) as store, database(mongodb_uri) as raw:
        await fill(store, FIRST)
        await store.write(Write(1, 1, moved=[MOVED]))
        (waiting,) = await raw.component_moves.find().to_list(None)
        await store.write(Write(1, 1, moved=[newest]))
        await fill(store, SECOND)
        await raw.component_versions.bulk_write(list(_updates(waiting)))
        assert await store.at([1]) == [newest]
