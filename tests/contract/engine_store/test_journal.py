"""The journal: appended in order by one claim, read from any event on."""

import asyncio

import pytest

from retinue.errors import ClaimLostError
from retinue_engine.stores.rows import JournalRecord, RunRow
from retinue_engine.stores.store import Store

from .rows import LATER_US, create, end_of, ends, make_run, record

MIB = 1024 * 1024


async def test_records_are_read_in_order_as_they_were_appended(store: Store) -> None:
    run = await create(store, make_run())
    written = [record(run), record(run, 2, 4), record(run, 5), record(run, 6, 300), record(run, 301, 400)]
    for each in written[1:]:
        await store.append(each)
    assert await store.read_journal(run.run_id, 0, MIB) == written
    assert await store.last_sequence(run.run_id) == 400


@pytest.fixture
async def written(store: Store) -> tuple[RunRow, list[JournalRecord]]:
    """A run with events 1, 2 to 4, 5 to 9 and 10, a hundred bytes each record."""
    run = make_run()
    records = [record(run, *place, data=b"x" * 100) for place in ((1,), (2, 4), (5, 9), (10,))]
    await store.create_run(run, records[0], new_session=True)
    for each in records[1:]:
        await store.append(each)
    return run, records


@pytest.mark.parametrize(
    ("after", "first"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (8, 2), (9, 3), (10, 4), (11, 4)]
)
async def test_a_read_begins_with_the_record_that_holds_the_next_event(
    store: Store, written: tuple[RunRow, list[JournalRecord]], after: int, first: int
) -> None:
    run, records = written
    assert await store.read_journal(run.run_id, after, MIB) == records[first:]


@pytest.mark.parametrize(("max_bytes", "count"), [(0, 1), (100, 1), (199, 1), (200, 2), (300, 3), (400, 4)])
async def test_a_read_gives_one_record_at_least_and_then_what_fits(
    store: Store, written: tuple[RunRow, list[JournalRecord]], max_bytes: int, count: int
) -> None:
    run, records = written
    assert await store.read_journal(run.run_id, 0, max_bytes) == records[:count]
    inside = await store.read_journal(run.run_id, 2, max_bytes)
    assert inside == records[1 : 1 + count]


async def test_a_long_journal_is_read_whole(store: Store) -> None:
    run = await create(store, make_run())
    appends = [store.append(record(run, first, data=b"y" * 50)) for first in range(2, 301)]
    await asyncio.gather(*appends)
    assert [each.first_sequence for each in await store.read_journal(run.run_id, 0, MIB)] == [*range(1, 301)]


async def test_journals_of_runs_with_kindred_names_stay_apart(store: Store) -> None:
    for run_id in ("run-z", "run-z0", "run-z:1"):
        run = make_run(run_id=run_id, root_run_id=run_id)
        await create(store, run)
    for run_id in ("run-z", "run-z0", "run-z:1"):
        assert [each.root_run_id for each in await store.read_journal(run_id, 0, MIB)] == [run_id]


async def test_a_record_of_one_mebibyte_comes_back_as_it_was(store: Store) -> None:
    run = await create(store, make_run())
    huge = record(run, 2, 5_000, data=bytes(range(256)) * 4096)
    await store.append(huge)
    assert await store.read_journal(run.run_id, 1, MIB) == [huge]


async def test_the_same_record_again_is_no_error(store: Store) -> None:
    run = await create(store, make_run())
    for _ in range(2):
        await store.append(record(run, 2))
    await asyncio.gather(*(store.append(record(run, 3)) for _ in range(5)))
    assert await store.last_sequence(run.run_id) == 3


async def test_another_record_at_the_same_place_is_refused(store: Store) -> None:
    run = await create(store, make_run())
    await store.append(record(run, 2))
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 2, writer="other", data=b"other"))
    assert await store.read_journal(run.run_id, 1, MIB) == [record(run, 2)]


async def test_one_refused_append_harms_none_beside_it(store: Store) -> None:
    runs = [await create(store, make_run()) for _ in range(5)]
    await store.append(record(runs[2], 2, writer="other"))
    appended = await asyncio.gather(*(store.append(record(run, 2)) for run in runs), return_exceptions=True)
    assert [type(each) for each in appended] == [type(None)] * 2 + [ClaimLostError] + [type(None)] * 2


async def test_of_many_claims_at_once_one_wins(store: Store) -> None:
    run = await create(store, make_run())
    claims = [record(run, 2, writer=f"claim-{number}", data=b"%d" % number) for number in range(10)]
    results = await asyncio.gather(
        *(store.claim(run, each, LATER_US) for each in claims), return_exceptions=True
    )
    won = [each for each, result in zip(claims, results, strict=True) if result is None]
    assert len(won) == 1
    assert sum(isinstance(result, ClaimLostError) for result in results) == 9
    assert await store.read_journal(run.run_id, 1, MIB) == won
    stored = await store.get_run("default", run.run_id)
    assert stored is not None
    assert stored.writer == won[0].writer


async def test_who_was_taken_over_cannot_append_or_end(store: Store) -> None:
    run = await create(store, make_run())
    await store.append(record(run, 2))
    await store.claim(run, record(run, 3, writer="new"), LATER_US)
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 3, 4))
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 3), ends(end_of(run, "never")))
    stored = await store.get_run("default", run.run_id)
    assert stored is not None
    assert stored.result is None
    assert await store.list_messages("default", run.session_id, 0, None) == []
    await store.append(record(run, 4, writer="new"))


async def test_a_run_without_a_first_record_is_claimed_at_its_beginning(store: Store) -> None:
    run = make_run()
    await store.append(record(run, 1, writer="new"))
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 1))
