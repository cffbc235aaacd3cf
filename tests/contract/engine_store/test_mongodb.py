"""What only the MongoDB store promises."""

import asyncio
import itertools
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import monitoring

from retinue.errors import ClaimLostError, StoreUnavailableError
from retinue_engine.stores.mongo.schema import open_collections
from retinue_engine.stores.mongo.store import MongoStore, open_mongo_store
from retinue_engine.stores.rows import RUN_STATE_QUEUED, Control, Totals
from retinue_engine.stores.store import Store
from retinue_kit.tasks import open_task_group
from tests.servers.mongodb import given_uri
from tests.suite import until

from .rows import LATER_US, create, end_of, ends, finish, ids, make_run, record
from .using import use_everything

WRITES = frozenset({"insert", "update", "delete", "findAndModify"})

FEW = ("labels", "root_run_id")
"""Fields by which few of many are found: an index without them is of no help."""

COLLECTIONS = ("runs", "journal", "sessions", "messages", "inputs", "blobs")


@pytest.fixture
async def store(mongodb_uri: str) -> AsyncIterator[Store]:
    async with open_mongo_store(mongodb_uri) as opened:
        yield opened


class Commands(monitoring.CommandListener):
    """What MongoDB is asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        self.seen.append({**event.command, "$name": event.command_name})

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        pass

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        pass


@pytest.mark.parametrize("address", ["mongodb://127.0.0.1:27017", "mongodb://127.0.0.1:27017/?w=1"])
async def test_an_address_without_a_database_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(ValueError, match=r"names no database.*27017/retinue"):
        async with open_mongo_store(address):
            pass


async def test_an_address_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="RETINUE_STORE cannot be used"):
        async with open_mongo_store("mongodb://host:port/x"):
            pass


async def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers there
        address = f"mongodb://127.0.0.1:{taken.getsockname()[1]}/x?serverSelectionTimeoutMS=200"
        with pytest.raises(StoreUnavailableError, match="see that it runs and that RETINUE_STORE"):
            async with open_mongo_store(address):
                pass


async def test_engines_open_a_fresh_database_at_the_same_time(mongodb_uri: str) -> None:
    async def use() -> None:
        async with open_mongo_store(mongodb_uri) as store:
            await create(store, make_run(), new_session=True)

    await asyncio.gather(*(use() for _ in range(4)))


async def test_a_lease_that_is_kept_is_not_over_and_one_given_back_is(store: Store) -> None:
    run = await create(store, make_run(lease_us=5), new_session=True)
    assert ids(await store.abandoned_runs(6, 10)) == [run.run_id]
    assert await store.abandoned_runs(5, 10) == []
    assert await store.renew_leases([run], 100) == []
    assert await store.abandoned_runs(100, 10) == []
    await store.renew_leases([run], 0)
    assert ids(await store.abandoned_runs(1, 10)) == [run.run_id]
    assert await store.renew_leases([], 0) == []


async def test_a_claim_moves_the_lease(store: Store) -> None:
    run = await create(store, make_run(lease_us=5), new_session=True)
    await store.claim(run, record(run, 2, writer="new"), 100)
    assert await store.abandoned_runs(100, 10) == []
    assert ids(await store.abandoned_runs(101, 10)) == [run.run_id]


async def test_who_lost_a_run_neither_keeps_nor_gives_back_its_lease(store: Store) -> None:
    stale = await create(store, make_run(lease_us=5), new_session=True)
    kept = await create(store, make_run(lease_us=5), new_session=True)
    await store.claim(stale, record(stale, 2, writer="new"), 100)
    assert await store.renew_leases([stale, kept], 0) == [stale.run_id]
    assert ids(await store.abandoned_runs(50, 10)) == [kept.run_id]
    assert await store.renew_leases([stale, kept], LATER_US) == [stale.run_id]
    assert ids(await store.abandoned_runs(101, 10)) == [stale.run_id]


async def test_who_renews_hears_which_runs_others_have_taken_over(store: Store) -> None:
    lost, kept, ended = [await create(store, make_run()) for _ in range(3)]
    await store.claim(lost, record(lost, 2, writer="new"), 100)
    await finish(store, ended)
    assert await store.renew_leases([lost, kept, ended], 100) == [lost.run_id]


async def test_a_run_that_begins_is_left_alone_until_the_lease_of_who_lets_it_begin(store: Store) -> None:
    first = await create(store, make_run("s", lease_us=5))
    waiting = await create(store, make_run("s", lease_us=5))
    await finish(store, first)
    begun = await store.next_queued("default", "s", 100)
    assert begun is not None
    assert begun.run_id == waiting.run_id
    assert await store.abandoned_runs(100, 10) == []
    assert ids(await store.abandoned_runs(101, 10)) == [waiting.run_id]


async def test_a_claim_that_comes_late_does_not_hide_a_later_one(store: Store) -> None:
    run = await create(store, make_run(), new_session=True)
    early, late = record(run, 2, writer="early"), record(run, 3, writer="late")
    await store.claim(run, early, 100)
    await store.claim(run, late, 200)
    await store.claim(run, early, 100)
    stored = await store.get_run("default", run.run_id)
    assert stored is not None
    assert (stored.writer, stored.lease_us) == ("late", 200)


async def test_the_same_writer_cannot_append_two_different_records_at_one_place(store: Store) -> None:
    run = await create(store, make_run(), new_session=True)
    await store.append(record(run, 2))
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 2, data=b"another"))


async def test_a_run_that_another_engine_began_is_not_the_creators_to_work_on(store: Store) -> None:
    run = make_run("s")
    # It begins the run between its acceptance and its first record.
    await store.append(record(run, 1, writer="other"))
    created = await create(store, run)
    assert created.state == RUN_STATE_QUEUED
    assert await store.read_journal(run.run_id, 0, 1) == [record(run, 1, writer="other")]


async def test_a_queued_run_that_several_end_at_once_is_counted_once(store: Store) -> None:
    await create(store, make_run("s"))
    queued = await create(store, make_run("s"))
    ending = ends(end_of(queued, totals=Totals(runs=1)))
    await asyncio.gather(*(store.append(record(queued, 2), ending) for _ in range(5)))
    session = await store.get_session("default", "s")
    assert session is not None
    assert session.totals == Totals(runs=1)


async def test_appends_of_one_moment_go_together(mongodb_uri: str) -> None:
    commands = Commands()
    client: Any = AsyncIOMotorClient(mongodb_uri, event_listeners=[commands])
    try:
        collections = await open_collections(client.get_default_database())
        async with open_task_group() as group:
            store = MongoStore(collections, group)
            runs = [replace(make_run(), lease_us=1) for _ in range(64)]
            await asyncio.gather(*(store.append(record(run)) for run in runs))
            await store.aclose()
    finally:
        client.close()
    inserts = [each for each in commands.seen if each["$name"] == "insert"]
    assert len(inserts) == 1
    assert len(inserts[0]["documents"]) == 64
    assert inserts[0]["ordered"] is False


async def test_every_query_uses_an_index_and_every_write_is_durable(mongodb_uri: str) -> None:
    commands = Commands()
    monitoring.register(commands)  # for the clients that are made from now on
    try:
        async with open_mongo_store(mongodb_uri) as store:
            opening = len(commands.seen)
            await use_everything(store)
    finally:
        monitoring._LISTENERS.command_listeners.remove(commands)
    assert {each["$name"] for each in commands.seen} >= {"find", "aggregate", "distinct", *WRITES}
    for each in commands.seen:
        if each["$name"] in WRITES:
            assert each["writeConcern"] == {"w": "majority", "j": True, "wtimeout": 10_000}
    client: Any = AsyncIOMotorClient(mongodb_uri)
    try:
        database = client.get_default_database()
        indexes = {name: await database[name].list_indexes().to_list(None) for name in COLLECTIONS}
        for query in itertools.chain.from_iterable(map(_queries, commands.seen[opening:])):
            assert any(_fits(query, index) for index in indexes[query["find"]]), query
            # secantusdb says COLLSCAN also where it uses an index and then filters what it found.
            if given_uri() is not None:
                plan = await database.command("explain", query, verbosity="queryPlanner")
                assert "COLLSCAN" not in str(plan["queryPlanner"]["winningPlan"]), query
    finally:
        client.close()


def _queries(command: dict[str, Any]) -> list[dict[str, Any]]:
    """What a command looks for, as finds."""
    name = command["$name"]
    collection = command.get(name)
    if name == "find":
        kept = ("find", "filter", "sort", "projection", "limit")
        return [{key: command[key] for key in kept if key in command}]
    if name == "aggregate":
        first, second = command["pipeline"][:2]
        if "$changeStream" in first:
            return []  # the server reads its own log, and tells
        return [{"find": collection, "filter": first["$match"], "sort": second.get("$sort", {})}]
    if name == "distinct":
        # Such a walk goes along the index from value to value.
        return [{"find": collection, "filter": command.get("query", {}), "sort": {command["key"]: 1}}]
    if name == "findAndModify":
        return [{"find": collection, "filter": command["query"]}]
    return [
        {"find": collection, "filter": each["q"]}
        for each in [*command.get("updates", ()), *command.get("deletes", ())]
    ]


def _fits(query: dict[str, Any], index: dict[str, Any]) -> bool:
    """Whether an index finds what is looked for, and in the order that is asked for."""
    asked, names = query["filter"], list(index["key"])
    if names == ["_id"]:
        return "_id" in asked
    if not all(
        _implies(asked.get(name), only) for name, only in index.get("partialFilterExpression", {}).items()
    ):
        return False
    if any(name in asked and name not in names for name in FEW):
        return False
    fixed = list(itertools.takewhile(lambda name: name in asked and not _is_range(asked[name]), names))
    rest = names[len(fixed) :]
    sort = list(query.get("sort", {}))
    if fixed == ["state"] and rest[0] == "lease_us":
        return True  # of few runs: those whose engine has stopped
    return bool(fixed or sort) and (rest[: len(sort)] == sort or sort == fixed[-1:])


def _implies(condition: Any, only: Any) -> bool:
    """Whether who fits a condition is among those that an index has."""
    if condition == only or not isinstance(only, dict):
        return bool(condition == only)
    ((operator, bound),) = only.items()
    if isinstance(condition, dict):
        values = [
            *condition.get("$all", ()),
            *(condition[name] for name in ("$gt", "$gte") if name in condition),
        ]
        return any(value > bound or (operator == "$gte" and value == bound) for value in values)
    return condition is not None and (condition > bound or (operator == "$gte" and condition == bound))


def _is_range(condition: Any) -> bool:
    return isinstance(condition, dict) and not set(condition) <= {"$eq", "$in", "$all"}


async def test_a_word_for_a_run_is_told_by_the_server_at_once(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as first, open_mongo_store(mongodb_uri) as second:
        run = await create(first, make_run())

        async def listens() -> bool:
            # Where the stream does not stand yet, waiting is short.
            before = time.monotonic()
            await second.await_command(0.5)
            return time.monotonic() - before > 0.4

        await until(listens, "it waits to be told")
        waiting = asyncio.create_task(second.await_command(30))
        await first.control_run("default", run.run_id, Control(pause_reason=""))
        await asyncio.wait_for(waiting, 10)
        assert await second.commanded_runs() == [run.run_id]
