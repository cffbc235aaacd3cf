"""What sessions add up, how they are labelled and found, and how they are deleted."""

import asyncio
from dataclasses import fields

import pytest

from retinue.engine.v1.run_pb2 import RUN_STATE_FAILED
from retinue.errors import SessionBusyError
from retinue_engine.stores.rows import Effects, RunFilter, RunRow, SessionRow, Totals
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import (
    create,
    end_of,
    ends,
    finish,
    make_blob,
    make_child,
    make_input,
    make_run,
    record,
    suspend,
)


async def _session(store: Store, session_id: str = "s") -> SessionRow:
    session = await store.get_session("default", session_id)
    assert session is not None
    return session


async def test_a_session_adds_up_what_its_runs_used(store: Store) -> None:
    assert Totals() == (await _of_new_session(store)).totals
    used = Totals(1, 2, 3, 4, 5, 6, unknown_cost=False, turns=7, tool_calls=8, duration_us=9)
    for number in range(3):
        run = await create(store, make_run("s"))
        for _ in range(2):
            await store.append(record(run, 2), ends(end_of(run, f"m{number}", totals=used)))
    expected = {each.name: 3 * getattr(used, each.name) for each in fields(Totals)}
    assert (await _session(store)).totals == Totals(**{**expected, "unknown_cost": False})
    assert [each.totals for each in await store.list_sessions("default", None, 1)] == [
        (await _session(store)).totals
    ]


async def _of_new_session(store: Store) -> SessionRow:
    run = await create(store, make_run("s"))
    session = await _session(store)
    await finish(store, run)
    return session


async def test_a_cost_that_is_not_known_stays_unknown(store: Store) -> None:
    for unknown in (False, True, False):
        run = await create(store, make_run("s"))
        totals = Totals(nano_usd=5, unknown_cost=unknown)
        await store.append(record(run, 2), ends(end_of(run, state=RUN_STATE_FAILED, totals=totals)))
    assert (await _session(store)).totals == Totals(nano_usd=15, unknown_cost=True)


async def test_totals_beyond_32_bits_are_added(store: Store) -> None:
    for _ in range(2):
        run = await create(store, make_run("s"))
        await store.append(
            record(run, 2), ends(end_of(run, totals=Totals(nano_usd=2**52, duration_us=2**52)))
        )
    assert (await _session(store)).totals == Totals(nano_usd=2**53, duration_us=2**53)


async def test_ends_of_a_session_that_are_written_at_once_are_added_once(store: Store) -> None:
    run = await create(store, make_run("s"))
    outcome = end_of(run, "m", totals=Totals(runs=1, turns=2))
    await asyncio.gather(*(store.append(record(run, 2), ends(outcome)) for _ in range(5)))
    assert (await _session(store)).totals == Totals(runs=1, turns=2)


async def test_labels_are_replaced_as_a_whole(store: Store) -> None:
    await create(store, make_run("s"))
    assert (await _session(store)).labels == {}
    labelled = await store.label_session("default", "s", {"user": "ada", "über.all/ü": "ß $ ."})
    assert labelled == await _session(store)
    assert labelled is not None
    assert labelled.labels == {"user": "ada", "über.all/ü": "ß $ ."}
    again = await store.label_session("default", "s", {"team": ""})
    assert again is not None
    assert again.labels == {"team": ""}
    assert await store.list_sessions("default", None, 10, {"user": "ada"}) == []
    assert await store.list_sessions("default", None, 10, {"team": ""}) == [again]
    assert await store.label_session("other", "s", {"a": "b"}) is None
    cleared = await store.label_session("default", "s", {})
    assert cleared is not None
    assert cleared.labels == {}
    assert await store.list_sessions("default", None, 10, {"team": ""}) == []


async def test_labels_outlive_the_end_of_a_run(store: Store) -> None:
    run = await create(store, make_run("s"))
    await store.label_session("default", "s", {"a": "b"})
    await finish(store, run, "m")
    await create(store, make_run("s"))
    assert (await _session(store)).labels == {"a": "b"}
    assert (await _session(store)).message_count == 1


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_sessions_are_listed_by_their_labels_page_after_page(store: Store, limit: int) -> None:
    runs = [make_run(create_us=1_000 + number // 2) for number in range(8)]
    for number, run in enumerate(runs):
        await create(store, run, new_session=True)
        labels = {"user": "ada" if number % 2 else "bob", "team": "x" if number < 4 else "y"}
        await store.label_session("default", run.session_id, labels)

    async def listed(**labels: str) -> list[str]:
        found: list[SessionRow] = []
        while page := await store.list_sessions(
            "default", (found[-1].create_us, found[-1].session_id) if found else None, limit, labels
        ):
            assert len(page) <= limit
            found += page
        return [each.session_id for each in found]

    def newest(some: list[RunRow]) -> list[str]:
        ordered = sorted(some, key=lambda run: (run.create_us, run.session_id), reverse=True)
        return [run.session_id for run in ordered]

    assert await listed() == newest(runs)
    assert await listed(user="ada") == newest(runs[1::2])
    assert await listed(user="ada", team="y") == newest(runs[5::2])
    assert await listed(team="y", user="bob") == newest(runs[4::2])
    assert await listed(user="eve") == []
    assert await listed(user="ada", team="z") == []
    assert await store.list_sessions("other", None, 10, {"user": "ada"}) == []


async def _fill(store: Store, session_id: str) -> RunRow:
    """A session with two runs that have ended, and all that can belong to them."""
    root = make_run(session_id, request_id=f"request of {session_id}")
    await store.create_run(root, record(root), new_session=False, blobs=[make_blob(root)])
    child = make_child(root)
    await store.append(record(root, 2), Effects(children=[child], inputs=[make_input(root)]))
    ended = ends(end_of(child), end_of(root, "m1", totals=Totals(runs=1), closes_inputs=True))
    await store.append(record(root, 3), ended)
    await finish(store, await create(store, make_run(session_id)), "m2")
    await store.label_session("default", session_id, {"a": "b"})
    return root


async def _left(store: Store, root: RunRow) -> list[bool]:
    """What is left of a session that was filled."""
    session = root.session_id
    return [
        await store.get_session("default", session) is not None,
        bool(await store.list_sessions("default", None, 10, {"a": "b"})),
        bool(await store.list_messages("default", session, 0, None)),
        bool(await store.list_runs(RunFilter("default", session_id=session), None, 10)),
        bool(await store.list_runs(RunFilter("default", root_run_id=root.run_id), None, 10)),
        await store.get_run("default", root.run_id) is not None,
        await store.get_run("default", make_child(root).run_id) is not None,
        await store.find_request("default", root.request_id) is not None,
        await store.last_sequence(root.run_id) > 0,
        await store.get_input("default", make_input(root).input_id) is not None,
        bool(await store.list_inputs("default", "", None, 10, closed=True)),
        await store.get_blob(root.run_id, "blob-1") is not None,
    ]


async def test_a_session_is_deleted_with_all_that_belongs_to_it(store: Store) -> None:
    root = await _fill(store, "s")
    assert all(await _left(store, root))
    assert await store.delete_session("default", "s") == 3
    assert not any(await _left(store, root))
    assert await store.delete_session("default", "s") is None


async def test_a_session_is_deleted_and_others_are_left_alone(store: Store) -> None:
    gone, kept = await _fill(store, "s"), await _fill(store, "s2")
    assert gone.run_id != kept.run_id
    elsewhere = await create(store, make_run("s", namespace="other"))
    before = await store.get_session("default", "s2")
    await store.delete_session("default", "s")
    assert all(await _left(store, kept))
    assert await store.get_session("default", "s2") == before
    assert await store.get_run("other", elsewhere.run_id) == elsewhere


async def test_a_session_with_a_run_that_has_not_ended_is_not_deleted(store: Store) -> None:
    running = await create(store, make_run("running"))
    await finish(store, await create(store, make_run("suspended")), "m")
    suspended = await create(store, make_run("suspended"))
    await suspend(store, suspended)
    queued = make_run("queued")
    await store.create_run(queued, record(queued), new_session=True, queue=True)
    for run in (running, suspended, queued):
        with pytest.raises(SessionBusyError) as caught:
            await store.delete_session("default", run.session_id)
        assert caught.value.facts == {"session_id": run.session_id, "run_id": run.run_id}
        assert await store.get_run("default", run.run_id) is not None
        assert await store.last_sequence(run.run_id) > 0
    assert len(await store.list_messages("default", "suspended", 0, None)) == 1
    await finish(store, running)
    assert await store.delete_session("default", "running") == 1


async def test_a_deleted_session_begins_anew(store: Store) -> None:
    root = await _fill(store, "s")
    await store.delete_session("default", "s")
    again = await create(store, make_run("s", request_id=root.request_id), new_session=True)
    assert again.run_id != root.run_id
    session = await _session(store)
    assert (session.message_count, session.labels, session.totals) == (0, {}, Totals())
    assert await store.list_sessions("default", None, 10, {"a": "b"}) == []
    await finish(store, again, "m")
    assert [each.position for each in await store.list_messages("default", "s", 0, None)] == [1]


async def test_a_session_of_many_runs_is_deleted_whole(store: Store) -> None:
    runs = [make_run("s") for _ in range(30)]
    for run in runs:
        await create(store, run)
        await store.append(record(run, 2), Effects(children=[make_child(run)]))
        await store.append(record(run, 3), ends(end_of(make_child(run)), end_of(run, *["m"] * 20)))
    assert await store.delete_session("default", "s") == 60
    assert [await store.last_sequence(run.run_id) for run in runs] == [0] * 30
    assert await store.list_runs(RunFilter("default"), None, 100) == []


async def _used_at(store: Store, session_id: str, end_us: int, namespace: str = "default") -> tuple[str, str]:
    """A session that is free and was last used then."""
    run = await create(store, make_run(session_id, namespace=namespace, create_us=1))
    await store.append(record(run, 2), ends(end_of(run, end_us=end_us)))
    return namespace, session_id


async def _not_free(store: Store, end_us: int) -> None:
    """Sessions that are at work, suspended or have queued runs, and were last used then."""
    for session_id in ("running", "suspended", "queued"):
        await _used_at(store, session_id, end_us)
        run = make_run(session_id)
        await store.create_run(run, record(run), new_session=False, queue=session_id == "queued")
        if session_id == "suspended":
            await suspend(store, run)


async def test_free_sessions_that_were_not_used_for_long_are_found(store: Store) -> None:
    await _not_free(store, 100)
    old = [await _used_at(store, "a", 100), await _used_at(store, "b", 200)]
    other = await _used_at(store, "a", 150, "other")
    await _used_at(store, "new", 300)
    assert sorted(await store.old_sessions(300, 10)) == sorted([*old, other])
    assert sorted(await store.old_sessions(150, 10)) == [old[0]]
    assert await store.old_sessions(100, 10) == []
    assert len(await store.old_sessions(300, 2)) == 2


async def test_a_session_that_is_used_again_is_not_old(store: Store) -> None:
    await _used_at(store, "a", 100)
    await _used_at(store, "a", 500)
    assert await store.old_sessions(200, 10) == []


async def test_free_sessions_beyond_those_that_a_namespace_keeps_are_found(store: Store) -> None:
    sessions = [await _used_at(store, f"s{number}", 1_000 + number) for number in range(5)]
    others = [await _used_at(store, f"s{number}", 10 + number, "other") for number in range(3)]
    assert sorted(await store.surplus_sessions(2, 10)) == sorted([*sessions[:3], *others[:1]])
    assert await store.surplus_sessions(5, 10) == []
    assert sorted(await store.surplus_sessions(0, 10)) == sorted([*sessions, *others])
    for limit in (3, 6):
        assert len(await store.surplus_sessions(0, limit)) == limit


async def test_sessions_that_are_not_free_are_never_surplus(store: Store) -> None:
    await _not_free(store, 100)
    free = await _used_at(store, "free", 50)
    assert await store.surplus_sessions(0, 10) == [free]


async def test_reopening_keeps_totals_and_labels(open_store: OpenStore) -> None:
    async with open_store() as store:
        await _fill(store, "s")
        kept = await _session(store)
        assert kept.totals == Totals(runs=1)
    async with open_store() as store:
        assert await _session(store) == kept
        assert await store.list_sessions("default", None, 10, {"a": "b"}) == [kept]
