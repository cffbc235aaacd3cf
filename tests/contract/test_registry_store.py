"""What every store of the registry keeps to."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from retinue.errors import StoreUnavailableError
from retinue_registry.component import BATCH_BYTES, ApiSource, FileSource, Key, Version
from retinue_registry.store import RequestRecord, Store, Write
from retinue_registry.store_sqlite import open_sqlite_store

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens the same store each time."""
    return {"sqlite": lambda: open_sqlite_store(tmp_path / "data")}[request.param]


@pytest.fixture
async def store(open_store: OpenStore) -> AsyncIterator[Store]:
    async with open_store() as opened:
        yield opened


def key(name: str, namespace: str = "default") -> Key:
    return Key(namespace, "llm", name)


def version(at: Key, number: int, revision: int, *, spec: bytes = b"x", deleted: bool = False) -> Version:
    return Version(
        key=at,
        version=number,
        revision=revision,
        etag=f"e{revision}",
        labels={"é": "ü", "a": ""},
        spec=spec,
        source=FileSource("a/b.yaml", 7) if revision % 2 else ApiSource(),
        create_time_us=1_700_000_000_000_000,
        update_time_us=1_700_000_000_000_000 + revision,
        deleted=deleted,
    )


async def fill(store: Store, *versions: Version) -> None:
    await store.write(Write(versions[0].revision - 1, versions[-1].revision, versions))


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.revision() == 0
    assert await store.current() == []
    assert await store.version(key("a"), 1) is None
    assert await store.changes("default", 0, 100, 10) == []
    assert await store.request("default", "r") is None


async def test_what_is_written_is_read_as_it_was(store: Store) -> None:
    first, second, other = version(key("a"), 1, 1), version(key("a"), 2, 2), version(key("b"), 1, 3)
    await fill(store, first, second, other)
    assert await store.revision() == 3
    assert sorted(await store.current(), key=lambda each: each.key) == [second, other]
    assert await store.version(key("a"), 1) == first
    assert await store.version(key("a"), 3) is None
    assert await store.at([3, 1, 3]) == [other, first, other]


async def test_an_end_is_current_but_no_version(store: Store) -> None:
    end = version(key("a"), 2, 2, deleted=True)
    await fill(store, version(key("a"), 1, 1), end)
    assert await store.current() == [end]
    assert await store.version(key("a"), 2) is None
    assert await store.version(key("a"), 1) is not None


async def test_changes_come_in_order_and_an_end_brings_what_was_there(store: Store) -> None:
    first, end = version(key("a"), 1, 1), version(key("a"), 2, 3, deleted=True)
    again = version(key("a"), 3, 4)
    await fill(store, first, version(key("z", "other"), 1, 2), end, again)
    found = await store.changes("default", 0, 4, 10)
    assert [(change.revision, change.after, change.before) for change in found] == [
        (1, first, None),
        (3, end, first),
        (4, again, None),
    ]
    assert [change.revision for change in await store.changes("default", 1, 3, 10)] == [3]
    assert [change.revision for change in await store.changes("default", 0, 4, 2)] == [1, 3]
    assert [change.revision for change in await store.changes("other", 0, 4, 2)] == [2]


async def test_changes_are_bounded_by_their_size_and_one_always_comes(store: Store) -> None:
    await fill(store, *(version(key(f"a{n}"), 1, n, spec=b"x" * BATCH_BYTES) for n in range(1, 4)))
    assert [change.revision for change in await store.changes("default", 0, 3, 10)] == [1]
    assert [change.revision for change in await store.changes("default", 1, 3, 10)] == [2]


async def test_moving_changes_the_source_and_nothing_else(store: Store) -> None:
    first = version(key("a"), 1, 1)
    await fill(store, first)
    moved = dataclasses.replace(first, source=FileSource("new.yaml", 1))
    await store.write(Write(1, 1, moved=[moved]))
    assert await store.current() == [moved]
    assert await store.revision() == 1


async def test_a_request_is_kept_with_its_answer(store: Store) -> None:
    record = RequestRecord("default", "r", b"digest", [(1, "created"), (1, "unchanged")], 1, 5)
    await store.write(Write(0, 1, [version(key("a"), 1, 1)], request=record))
    assert await store.request("default", "r") == record
    assert await store.request("other", "r") is None


async def test_a_write_for_another_revision_is_refused_whole(store: Store) -> None:
    await fill(store, version(key("a"), 1, 1))
    record = RequestRecord("default", "r", b"", [], 1, 5)
    with pytest.raises(StoreUnavailableError):
        await store.write(Write(0, 1, [version(key("b"), 1, 2)], request=record))
    assert await store.revision() == 1
    assert len(await store.current()) == 1
    assert await store.request("default", "r") is None


async def test_a_write_that_fails_halfway_leaves_nothing(store: Store) -> None:
    await fill(store, version(key("a"), 1, 1))
    twice = version(key("b"), 1, 3)
    with pytest.raises(StoreUnavailableError):
        await store.write(Write(1, 4, [version(key("b"), 1, 2), twice, version(key("c"), 1, 4)]))
    assert await store.revision() == 1
    assert [each.key.name for each in await store.current()] == ["a"]
    await fill(store, version(key("b"), 1, 2))


async def test_all_is_there_after_it_was_closed(open_store: OpenStore) -> None:
    kept = version(key("a"), 1, 1)
    async with open_store() as store:
        await fill(store, kept)
    async with open_store() as store:
        assert await store.current() == [kept]
        assert await store.revision() == 1


async def test_reads_go_on_beside_writes(store: Store) -> None:
    async def write() -> None:
        for revision in range(1, 101):
            await fill(store, version(key("a"), revision, revision))

    async def read() -> None:
        seen = 0
        while seen < 100:
            found = await store.revision()
            assert found >= seen
            seen = found
            newest = await store.current()
            assert not newest or newest[0].revision >= seen

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(read())


async def test_a_file_has_one_registry(tmp_path: Path) -> None:
    async with open_sqlite_store(tmp_path):
        with pytest.raises(StoreUnavailableError, match="in use by another registry"):
            async with open_sqlite_store(tmp_path):
                pytest.fail("two registries have one file")
    async with open_sqlite_store(tmp_path):
        pass


async def test_a_file_of_another_layout_or_of_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnavailableError, match=r"registry\.db"):
        async with open_sqlite_store(tmp_path):
            pytest.fail("it was opened")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError, match="RETINUE_DATA_DIR"):
        async with open_sqlite_store(tmp_path / "file"):
            pytest.fail("it was opened")
