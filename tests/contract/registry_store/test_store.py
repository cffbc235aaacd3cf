"""What every store of the registry keeps to."""

import asyncio
import dataclasses

import pytest

from retinue.errors import RevisionCompactedError, StoreUnavailableError
from retinue_registry.component import BATCH_BYTES, ApiSource, FileSource, Layer
from retinue_registry.stores.store import Store, Write

from .conftest import OpenStore
from .rows import fill, key, record, version


async def test_a_new_store_is_empty(store: Store) -> None:
    assert await store.revision() == 0
    assert await store.current() == []
    assert await store.version(key("a"), 1) is None
    assert await store.changes("default", 0, 100, 10) == []
    assert await store.request("default", "r") is None
    assert await store.versions(key("a"), 0, 10) == []
    assert await store.compacted_revision() == 0


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


async def test_versions_come_newest_first_with_the_ends(store: Store) -> None:
    first, end, again = (
        version(key("a"), 1, 1),
        version(key("a"), 2, 2, deleted=True),
        version(key("a"), 3, 4),
    )
    await fill(store, first, end, version(key("b"), 1, 3), again)
    assert await store.versions(key("a"), 0, 10) == [again, end, first]
    assert await store.versions(key("a"), 3, 10) == [end, first]
    assert await store.versions(key("a"), 0, 2) == [again, end]
    assert await store.versions(key("a"), 1, 2) == []


async def test_moving_changes_the_source_and_nothing_else(open_store: OpenStore) -> None:
    first, second = version(key("a"), 1, 1), version(key("b"), 1, 2)
    async with open_store() as store:
        await fill(store, first, second)
        once = dataclasses.replace(first, source=FileSource("new.yaml", 1, Layer.USER))
        await store.write(Write(2, 2, moved=[once, dataclasses.replace(second, source=FileSource("n", 2))]))
        assert await store.at([1]) == [once]
        twice = dataclasses.replace(first, source=FileSource("newer.yaml", 3, Layer.PACKAGE, "dist"))
        back = dataclasses.replace(second, source=ApiSource())
        await store.write(Write(2, 3, [version(key("c"), 1, 3)], moved=[twice, back]))
        assert await store.at([1, 2]) == [twice, back]
        assert await store.revision() == 3
    for _ in range(2):
        async with open_store() as store:
            assert await store.version(key("a"), 1) == twice
            assert await store.versions(key("b"), 0, 1) == [back]
            assert [change.after for change in await store.changes("default", 0, 2, 10)] == [twice, back]


async def test_a_request_is_kept_with_its_answer(store: Store) -> None:
    await fill(store, version(key("a"), 1, 1), request=record("r", 1))
    await store.write(Write(1, 1, request=record("s", 1)))
    assert await store.request("default", "r") == record("r", 1)
    assert await store.request("default", "s") == record("s", 1)
    assert await store.request("other", "r") is None


async def test_a_write_for_another_revision_is_refused_whole(store: Store) -> None:
    await fill(store, version(key("a"), 1, 1))
    with pytest.raises(StoreUnavailableError):
        await store.write(Write(0, 1, [version(key("b"), 1, 2)], request=record("r", 1)))
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
        for revision in range(1, 51):
            await fill(store, version(key("a"), revision, revision))

    async def read() -> None:
        seen = 0
        while seen < 50:
            found = await store.revision()
            assert found >= seen
            seen = found
            newest = await store.current()
            assert not newest or newest[0].revision >= seen

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(write())
        group.create_task(read())


async def test_a_large_set_is_written_at_once(store: Store) -> None:
    many = [version(key(f"a{number}"), 1, number) for number in range(1, 1051)]
    await fill(store, *many, request=record("r", 1))
    moved = [dataclasses.replace(each, source=FileSource("moved.yaml", each.revision)) for each in many]
    await store.write(Write(1050, 1050, moved=moved))
    await store.write(Write(1050, 1051, [version(key("b"), 1, 1051)]))
    some = [1, 1000, 1001, 1050]
    assert await store.at(some) == [moved[revision - 1] for revision in some]
    assert await store.revision() == 1051


async def test_removed_versions_are_gone_and_watchers_from_before_are_told(store: Store) -> None:
    await fill(store, *(version(key("a"), number, number) for number in range(1, 7)), version(key("b"), 1, 7))
    assert await store.remove_versions(key("a"), 5, 3) == 3
    assert await store.compacted_revision() == 3
    assert await store.remove_versions(key("a"), 5, 3) == 1
    assert await store.remove_versions(key("a"), 5, 3) == 0
    assert await store.remove_versions(key("c"), 5, 3) == 0
    assert await store.compacted_revision() == 4
    assert [each.version for each in await store.versions(key("a"), 0, 10)] == [6, 5]
    assert await store.version(key("a"), 4) is None
    assert sorted(each.revision for each in await store.current()) == [6, 7]
    assert [change.revision for change in await store.changes("default", 4, 7, 10)] == [5, 6, 7]
    with pytest.raises(RevisionCompactedError, match="list again") as caught:
        await store.changes("default", 3, 7, 10)
    assert (caught.value.facts["after_revision"], caught.value.facts["oldest_revision"]) == ("3", "4")
    with pytest.raises(RevisionCompactedError, match="revision 2 is not kept"):
        await store.at([7, 2])
    await fill(store, version(key("a"), 7, 8))
    assert await store.revision() == 8


async def test_what_is_known_of_requests_is_removed_by_time(store: Store) -> None:
    for number in range(1, 5):
        await fill(store, version(key("a"), number, number), request=record(f"r{number}", number, number))
    assert await store.remove_requests(4, 2) == 2
    assert await store.remove_requests(4, 2) == 1
    assert await store.remove_requests(4, 2) == 0
    known = [await store.request("default", f"r{number}") for number in range(1, 5)]
    assert known == [None, None, None, record("r4", 4, 4)]
    await fill(store, version(key("a"), 5, 5), request=record("r1", 5, 5))
    assert await store.request("default", "r1") == record("r1", 5, 5)
