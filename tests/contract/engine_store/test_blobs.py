"""Blobs: stored with the record that names them."""

import pytest

from retinue.errors import ClaimLostError
from retinue_engine.stores.rows import BlobRow, Effects
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import LATER_US, create, make_blob, make_run, record


async def test_blobs_are_accepted_with_their_run(store: Store) -> None:
    run = make_run()
    blobs = [make_blob(run, number) for number in (1, 2)]
    await store.create_run(run, record(run), new_session=True, blobs=blobs)
    for blob in blobs:
        assert await store.get_blob(run.run_id, blob.blob_id) == blob
    assert await store.get_blob(run.run_id, "other") is None
    assert await store.get_blob("other", blobs[0].blob_id) is None


async def test_blobs_are_stored_with_a_record(store: Store) -> None:
    run = await create(store, make_run())
    blob = make_blob(run)
    for _ in range(2):
        await store.append(record(run, 2), Effects(blobs=[blob]))
    assert await store.get_blob(run.run_id, blob.blob_id) == blob


async def test_a_blob_that_is_known_stays_as_it_is(store: Store) -> None:
    run = await create(store, make_run())
    blob = make_blob(run)
    await store.append(record(run, 2), Effects(blobs=[blob]))
    await store.append(record(run, 3), Effects(blobs=[blob]))
    assert await store.get_blob(run.run_id, blob.blob_id) == blob


async def test_trees_have_blobs_of_their_own(store: Store) -> None:
    one, two = make_run(), make_run()
    for run, data in ((one, b"one"), (two, b"two")):
        blob = BlobRow(run.run_id, "same", "text/plain", "a.txt", data)
        await store.create_run(run, record(run), new_session=True, blobs=[blob])
    for run, data in ((one, b"one"), (two, b"two")):
        found = await store.get_blob(run.run_id, "same")
        assert found is not None
        assert found.data == data


async def test_a_blob_of_some_mebibytes_comes_back_as_it_was(store: Store) -> None:
    run = await create(store, make_run())
    blob = BlobRow(run.run_id, "large", "application/pdf", "", bytes(range(256)) * 4 * 4096)
    await store.append(record(run, 2), Effects(blobs=[blob]))
    assert await store.get_blob(run.run_id, "large") == blob


async def test_many_blobs_of_one_record_are_stored(store: Store) -> None:
    run = await create(store, make_run())
    blobs = [make_blob(run, number) for number in range(1, 41)]
    await store.append(record(run, 2), Effects(blobs=blobs))
    for blob in blobs:
        assert await store.get_blob(run.run_id, blob.blob_id) == blob


async def test_a_record_that_is_refused_is_refused_with_its_blobs(store: Store) -> None:
    run = await create(store, make_run())
    await store.claim(run, record(run, 2, writer="new"), LATER_US)
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 2), Effects(blobs=[make_blob(run)]))
    assert await store.read_journal(run.run_id, 1, 1) == [record(run, 2, writer="new")]


async def test_a_known_request_is_found_without_its_blobs(store: Store) -> None:
    run = await create(store, make_run(request_id="r"))
    again = make_run(request_id="r")
    found = await store.create_run(again, record(again), new_session=True, blobs=[make_blob(again)])
    assert found.run_id == run.run_id


async def test_reopening_keeps_blobs(open_store: OpenStore) -> None:
    run = make_run()
    async with open_store() as store:
        await store.create_run(run, record(run), new_session=True, blobs=[make_blob(run)])
    async with open_store() as store:
        assert await store.get_blob(run.run_id, "blob-1") == make_blob(run)
