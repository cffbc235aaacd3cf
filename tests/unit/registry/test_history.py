"""What is said of versions where retention has removed the oldest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from retinue.errors import ComponentNotFoundError, InvalidArgumentError, RevisionCompactedError
from retinue_registry.catalog import Catalog
from retinue_registry.changes.first_answers import Answer, Asked
from retinue_registry.changes.history import History
from retinue_registry.changes.plan import Outcome, Step
from retinue_registry.component import ApiSource, Key, Version
from retinue_registry.convert import ProtoCodec
from retinue_registry.stores.sqlite.store import open_sqlite_store
from retinue_registry.stores.store import Write

KEY = Key("default", "llm", "fast")
LAST = 130
"""More versions than are read at once."""


def version(number: int) -> Version:
    """A version; the last one is an end."""
    return Version(KEY, number, number, f"e{number}", {}, b"", ApiSource(), 1, number, deleted=number == LAST)


@asynccontextmanager
async def opened(folder: Path, *, below: int) -> AsyncIterator[History]:
    """The history of a deleted component without its versions below one."""
    async with open_sqlite_store(folder / "registry.db") as store:
        await store.write(Write(0, LAST, [version(number) for number in range(1, LAST + 1)]))
        assert await store.remove_versions(KEY, below, LAST) == below - 1
        yield History(store, Catalog(ProtoCodec(), await store.current(), LAST))


@pytest.mark.parametrize("oldest", [1, 2, 64, 65, LAST - 1])
async def test_a_version_that_was_removed_says_which_are_kept(tmp_path: Path, oldest: int) -> None:
    async with opened(tmp_path, below=oldest) as history:
        for missing in {oldest - 1, LAST + 1} - {0}:
            with pytest.raises(ComponentNotFoundError, match=f"kept are {oldest} to {LAST}"):
                await history.get(KEY, missing)
        assert (await history.get(KEY, oldest)).version == oldest
        with pytest.raises(ComponentNotFoundError, match=f"was deleted: roll back to version {LAST - 1}"):
            await history.get(KEY)
        with pytest.raises(ComponentNotFoundError, match=f"has no version {LAST + 1}"):
            await history.what_was(KEY, LAST + 1)
        with pytest.raises(InvalidArgumentError, match=f"version {LAST} of llm/fast is its end"):
            await history.what_was(KEY, LAST)


async def test_of_a_deleted_component_the_end_alone_may_be_left(tmp_path: Path) -> None:
    async with opened(tmp_path, below=LAST) as history:
        with pytest.raises(ComponentNotFoundError, match=f"kept are {LAST} alone"):
            await history.get(KEY, 1)
        with pytest.raises(ComponentNotFoundError, match=r"was deleted$"):
            await history.get(KEY)


async def test_pages_hold_as_many_as_are_asked_for_and_end_with_the_oldest(tmp_path: Path) -> None:
    async with opened(tmp_path, below=3) as history:
        for limit in (1, 49, 50, 51, 127, 128, 1000):
            found: list[int] = []
            more = True
            while more:
                versions, more = await history.page(KEY, found[-1] if found else 0, limit)
                assert len(versions) == limit or not more
                found += [each.version for each in versions]
            assert found == list(range(LAST, 2, -1))


async def test_a_request_whose_answer_was_removed_is_known_to_be_done(tmp_path: Path) -> None:
    asked = Asked("default", "r", b"digest")
    async with open_sqlite_store(tmp_path / "registry.db") as store:
        answer = Answer([Step(version(1), Outcome.CREATED)], 1, [], [])
        await store.write(Write(0, 1, [version(1)], request=asked.record(answer, 1)))
        assert await asked.first_answer(store) == answer
        await store.write(Write(1, 2, [version(2)]))
        await store.remove_versions(KEY, 2, 1)
        with pytest.raises(RevisionCompactedError, match="this request was done, at revision 1"):
            await asked.first_answer(store)
