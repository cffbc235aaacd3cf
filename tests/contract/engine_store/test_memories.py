"""Texts that are kept: written once, found by words and labels, forgotten in time."""

from dataclasses import replace

import pytest

from retinue_engine.memory import MAX_TERMS, MemoryRow, words_of
from retinue_engine.stores.rows import Effects
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import create, make_run, record

NOW_US = 2_000_000_000_000_000


def row(number: int, text: str, namespace: str = "default", **labels: str) -> MemoryRow:
    return MemoryRow(namespace, f"memory-{number}", text, labels, NOW_US + number)


async def keep(store: Store, *rows: MemoryRow) -> None:
    for each in rows:
        assert await store.write_memory(each) == each


async def found(store: Store, query: str, limit: int = 10, at_us: int = NOW_US, **labels: str) -> list[str]:
    rows = await store.search_memories("default", words_of(query), labels, limit, at_us)
    return [each.memory_id.removeprefix("memory-") for each in rows]


async def listed(store: Store, limit: int = 10, at_us: int = NOW_US, **labels: str) -> list[str]:
    """The ids that are listed, page after page."""
    rows: list[MemoryRow] = []
    while page := await store.list_memories(
        "default", labels, (rows[-1].create_us, rows[-1].memory_id) if rows else None, limit, at_us
    ):
        rows += page
    return [each.memory_id.removeprefix("memory-") for each in rows]


async def test_texts_with_more_of_the_words_come_first_then_the_newer_ones(store: Store) -> None:
    await keep(
        store,
        row(1, "Bees dance"),
        row(2, "Bees build; bees sleep"),
        row(3, "The wasps dance"),
        row(4, "Nothing of it"),
        row(5, "bees", "other"),
    )
    assert await found(store, "do bees DANCE?") == ["1", "3", "2"]
    assert await found(store, "bees", limit=1) == ["2"]
    assert await found(store, "ants") == []


@pytest.mark.parametrize("query", ["CAFÉ", "cafe", "Cafe\u0301!"])
async def test_case_and_accents_make_no_difference(store: Store, query: str) -> None:
    await keep(store, row(1, "Café au lait"))
    assert await found(store, query) == ["1"]


async def test_labels_narrow_a_search_and_a_list_and_are_no_words(store: Store) -> None:
    strange = {"a.b$": 'x="y"', "": "empty"}
    await keep(
        store,
        row(1, "bees", topic="bees", team="a"),
        row(2, "bees", topic="wasps", team="a"),
        replace(row(3, "bees"), labels=strange),
    )
    assert await found(store, "bees", topic="bees") == ["1"]
    assert await listed(store, team="a") == ["2", "1"]
    assert await listed(store, team="a", topic="bees") == ["1"]
    assert await listed(store, **{"a.b$": 'x="y"'}) == ["3"]
    assert await found(store, "wasps topic") == []
    stored = await store.get_memory("default", "memory-3", NOW_US)
    assert stored is not None
    assert stored.labels == strange


async def test_lists_come_page_by_page_the_newest_first(store: Store) -> None:
    await keep(store, *(row(number, "x") for number in range(1, 6)))
    assert await listed(store, limit=2) == ["5", "4", "3", "2", "1"]


async def test_what_has_expired_is_not_found_and_its_id_is_free(store: Store) -> None:
    brief = replace(row(1, "bees"), expire_us=NOW_US + 10)
    await keep(store, brief)
    assert await found(store, "bees") == ["1"]
    assert await found(store, "bees", at_us=NOW_US + 10) == await listed(store, at_us=NOW_US + 10) == []
    assert await store.get_memory("default", "memory-1", NOW_US + 10) is None


async def test_a_text_is_written_once_and_stays_as_it_was(store: Store, open_store: OpenStore) -> None:
    _ = open_store
    await keep(store, row(1, "bees"))
    again = await store.write_memory(row(1, "wasps"))
    assert again.text == "bees"
    assert await found(store, "wasps") == []


async def test_a_text_that_is_deleted_is_not_found(store: Store) -> None:
    await keep(store, row(1, "bees", topic="x"), row(2, "bees"))
    assert await store.delete_memory("default", "memory-1")
    assert not await store.delete_memory("default", "memory-1")
    assert not await store.delete_memory("other", "memory-2")
    assert await found(store, "bees") == ["2"]
    assert await listed(store, topic="x") == []


async def test_a_text_is_kept_with_the_record_that_tells_it_once(store: Store) -> None:
    run = make_run()
    await create(store, run)
    kept = replace(row(1, "bees"), run_id=run.run_id)
    for _ in range(2):
        await store.append(record(run, 2), Effects(memories=[kept]))
    assert await store.get_memory("default", "memory-1", NOW_US) == kept
    assert await found(store, "bees") == ["1"]


async def test_a_text_of_very_many_words_is_found_by_the_first(store: Store) -> None:
    await keep(store, row(1, " ".join(f"w{number}" for number in range(9000))))
    assert await found(store, f"w{MAX_TERMS - 1}") == ["1"]
    assert await found(store, f"w{MAX_TERMS}") == []
