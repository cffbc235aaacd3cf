"""Children: they begin and end with records of their root's journal, and are found under it alone."""

from dataclasses import replace

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_CANCELLED, RUN_STATE_FAILED, RUN_STATE_SUCCEEDED
from retinue.errors import ClaimLostError
from retinue_engine.stores.rows import NOW, RUN_STATE_RUNNING, Effects, RunFilter, Totals
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import LATER_US, create, end_of, ends, get, ids, make_child, make_run, record


async def test_a_child_begins_with_its_record_and_is_read_as_it_was_stored(store: Store) -> None:
    root = await create(store, make_run("s", request_id="r"))
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    assert await get(store, child) == child
    assert child.state == RUN_STATE_RUNNING
    assert await get(store, root) == root
    assert await store.find_request("default", "r") == root


async def test_a_child_that_begins_again_is_the_same_child(store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    for _ in range(2):
        await store.append(record(root, 2), Effects(children=[child]))
    await store.append(record(root, 3), ends(end_of(child)))
    ended = await get(store, child)
    await store.append(record(root, 2), Effects(children=[child]))
    assert await get(store, child) == ended
    assert ended.state == RUN_STATE_SUCCEEDED


async def test_who_was_taken_over_begins_and_ends_no_child(store: Store) -> None:
    root = await create(store, make_run())
    first, second = make_child(root), make_child(root, 2)
    await store.append(record(root, 2), Effects(children=[first]))
    await store.claim(root, record(root, 3, writer="new"), LATER_US)
    with pytest.raises(ClaimLostError):
        await store.append(record(root, 3), Effects(children=[second], outcomes=[end_of(first)]))
    assert await store.get_run("default", second.run_id) is None
    assert (await get(store, first)).state == RUN_STATE_RUNNING


async def test_a_childs_end_adds_nothing_to_a_session_and_frees_none(store: Store) -> None:
    root = await create(store, make_run("s"))
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child]))
    session = await store.get_session("default", "s")
    for _ in range(2):
        ended = ends(end_of(child, "m", state=RUN_STATE_FAILED, end_us=77, totals=Totals(runs=1, turns=5)))
        await store.append(record(root, 3), ended)
    stored = await get(store, child)
    assert (stored.state, stored.end_us, stored.result) == (RUN_STATE_FAILED, 77, end_of(child).result)
    assert await store.get_session("default", "s") == session
    assert await store.list_messages("default", "s", 0, None) == []
    assert (await get(store, root)).state == RUN_STATE_RUNNING


async def test_children_and_their_root_end_with_one_record(store: Store) -> None:
    root = await create(store, make_run("s"))
    children = [make_child(root, number) for number in (1, 2)]
    await store.append(record(root, 2), Effects(children=children))
    outcomes = [end_of(run, "m", state=RUN_STATE_CANCELLED) for run in (*children, root)]
    for _ in range(2):
        await store.append(record(root, 3), ends(*outcomes))
    for run in (*children, root):
        assert (await get(store, run)).state == RUN_STATE_CANCELLED
    assert len(await store.list_messages("default", "s", 0, None)) == 1


async def test_a_child_begins_and_ends_with_one_record(store: Store) -> None:
    root = await create(store, make_run())
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child], outcomes=[end_of(child)]))
    assert (await get(store, child)).state == RUN_STATE_SUCCEEDED


async def test_children_are_listed_under_their_root_alone(store: Store) -> None:
    root = await create(store, make_run("s", target_name="a"))
    other = await create(store, make_run(target_name="a"))
    children = [make_child(root, number, target_name="a" if number % 2 else "b") for number in range(1, 6)]
    grandchild = make_child(root, 6, parent_run_id=children[0].run_id, path="turn:1/call:1/turn:1/call:1")
    await store.append(record(root, 2), Effects(children=[*children, grandchild]))
    await store.append(record(other, 2), Effects(children=[make_child(other)]))
    await store.append(record(root, 3), ends(end_of(children[0])))

    newest = [grandchild, *children[::-1]]
    of_root = RunFilter("default", root_run_id=root.run_id)
    assert ids(await store.list_runs(of_root, None, 10)) == ids(newest)
    found = await store.list_runs(of_root, None, 4)
    found += await store.list_runs(of_root, (found[-1].create_us, found[-1].run_id), 4)
    assert ids(found) == ids(newest)
    running = replace(of_root, states=(RUN_STATE_RUNNING,))
    assert ids(await store.list_runs(running, None, 10)) == ids(newest[:-1])
    assert ids(await store.list_runs(replace(of_root, target_name="b"), None, 10)) == ids(
        [children[3], children[1]]
    )
    assert await store.list_runs(replace(of_root, namespace="other"), None, 10) == []
    for which in (
        RunFilter("default"),
        RunFilter("default", target_name="a"),
        RunFilter("default", states=(RUN_STATE_RUNNING,)),
        RunFilter("default", states=(RUN_STATE_RUNNING, RUN_STATE_SUCCEEDED)),
    ):
        assert ids(await store.list_runs(which, None, 10)) == ids([other, root])
    assert ids(await store.list_runs(RunFilter("default", session_id="s"), None, 10)) == [root.run_id]


async def test_children_are_never_abandoned_commanded_or_due(store: Store) -> None:
    root = await create(store, make_run(lease_us=5))
    children = [make_child(root, number, lease_us=1, attention_us=NOW) for number in (1, 2)]
    await store.append(record(root, 2), Effects(children=children))
    assert ids(await store.abandoned_runs(LATER_US, 10)) == [root.run_id]
    assert await store.commanded_runs() == []
    assert await store.take_commands(ids(children)) == []
    assert await store.due_runs(LATER_US, 10) == []
    assert await store.count_queued() == 0


async def test_reopening_keeps_a_tree(open_store: OpenStore) -> None:
    async with open_store() as store:
        root = await create(store, make_run())
        children = [make_child(root, number) for number in (1, 2)]
        await store.append(record(root, 2), Effects(children=children))
        await store.append(record(root, 3), ends(end_of(children[0])))
        kept = [await get(store, run) for run in (root, *children)]
    async with open_store() as store:
        assert [await get(store, run) for run in (root, *children)] == kept
