"""The sessions of workflow steps: what their runs leave there, once each, and how they go."""

import asyncio
import itertools

import pytest

from retinue.errors import SessionBusyError
from retinue_engine.stores.mongo.store import open_mongo_store
from retinue_engine.stores.rows import Effects, RunRow, SessionRow, Totals
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import create, end_of, finish, make_child, make_run, record
from .stopping import do_until_stopped

USED = Totals(runs=1, turns=2)


async def _root(store: Store, session_id: str = "s") -> RunRow:
    return await create(store, make_run(session_id))


async def _end_step(
    store: Store, root: RunRow, at: int, *messages: str, session_id: str = "s:a", base: str = "s"
) -> RunRow:
    """Begin a run of a step and end it, in one record."""
    child = make_child(root, at, session_id=session_id)
    await _append(store, root, at, child, *messages, base=base)
    return child


async def _append(
    store: Store, root: RunRow, at: int, child: RunRow, *messages: str, base: str = "s"
) -> None:
    outcome = end_of(child, *messages, totals=USED, base=base, end_us=child.create_us)
    await store.append(record(root, at), Effects(children=[child], outcomes=[outcome]))


async def _session(store: Store, session_id: str) -> SessionRow:
    session = await store.get_session("default", session_id)
    assert session is not None
    return session


async def _said(store: Store, session_id: str) -> list[tuple[int, str, str]]:
    rows = await store.list_messages("default", session_id, 0, None)
    return [(row.position, row.run_id, row.message_json) for row in rows]


async def test_runs_of_a_step_add_to_its_session_in_the_order_of_their_ends(store: Store) -> None:
    root = await _root(store)
    one = await _end_step(store, root, 2, "m1", "m2")
    two = await _end_step(store, root, 3)
    three = await _end_step(store, root, 4, "m3")
    session = await _session(store, "s:a")
    assert (session.base_session_id, session.message_count, session.active_run_id) == ("s", 3, None)
    assert session.totals == Totals(runs=3, turns=6)
    assert session.update_us == three.create_us
    assert await _said(store, "s:a") == [
        (1, one.run_id, "m1"),
        (2, one.run_id, "m2"),
        (3, three.run_id, "m3"),
    ]
    assert (await store.get_run("default", two.run_id)) is not None
    assert (await _session(store, "s")).message_count == 0


async def test_the_same_end_of_a_step_again_adds_nothing(store: Store) -> None:
    root = await _root(store)
    child = make_child(root, session_id="s:a")
    await asyncio.gather(*(_append(store, root, 2, child, "m1", "m2") for _ in range(5)))
    await _append(store, root, 2, child, "m1", "m2")
    assert (await _session(store, "s:a")).totals == USED
    assert await _said(store, "s:a") == [(1, child.run_id, "m1"), (2, child.run_id, "m2")]


async def test_ends_of_one_record_add_to_one_session_one_after_the_other(store: Store) -> None:
    root = await _root(store)
    children = [make_child(root, number, session_id="s:a") for number in range(1, 41)]
    outcomes = [end_of(each, f"m{each.run_id}", totals=USED, base="s") for each in children]
    effects = Effects(children=children, outcomes=outcomes)
    for _ in range(2):
        await store.append(record(root, 2), effects)
    assert [each[1] for each in await _said(store, "s:a")] == [each.run_id for each in children]
    assert (await _session(store, "s:a")).totals.runs == len(children)


async def test_a_session_that_is_no_steps_of_this_one_is_left_alone(store: Store) -> None:
    await finish(store, await _root(store, "s:a"), "own")
    await _end_step(store, await _root(store, "other"), 2, "m", session_id="s:b", base="other")
    root = await _root(store)
    await _end_step(store, root, 2, "m", session_id="s:a")
    await _end_step(store, root, 3, "m", session_id="s:b")
    assert [said for *_, said in await _said(store, "s:a")] == ["own"]
    assert (await _session(store, "s:a")).base_session_id == ""
    assert (await _session(store, "s:b")).message_count == 1


async def test_a_session_in_which_a_run_of_its_own_is_at_work_is_left_alone(store: Store) -> None:
    root = await _root(store)
    await _end_step(store, root, 2, "m1")
    talk = await _root(store, "s:a")
    await _end_step(store, root, 3, "m2")
    await finish(store, talk, "t1", "t2")
    await _end_step(store, root, 4, "m3")
    assert [said for *_, said in await _said(store, "s:a")] == ["m1", "t1", "t2", "m3"]
    assert (await _session(store, "s:a")).message_count == 4


async def test_sessions_of_steps_are_listed_with_their_base_alone(store: Store) -> None:
    root = await _root(store)
    for number, step in enumerate(("a", "b", "c"), 2):
        await _end_step(store, root, number, "m", session_id=f"s:{step}")
    await _end_step(store, await _root(store, "t"), 2, "m", session_id="t:a", base="t")
    await store.label_session("default", "s:b", {"user": "ada"})
    await store.label_session("default", "t", {"user": "ada"})

    async def listed(base: str = "", labels: dict[str, str] | None = None) -> list[str]:
        found: list[str] = []
        before = None
        while page := await store.list_sessions("default", before, 2, labels, base):
            found += [each.session_id for each in page]
            before = (page[-1].create_us, page[-1].session_id)
        return found

    assert await listed() == ["t", "s"]
    assert await listed("s") == ["s:c", "s:b", "s:a"]
    assert await listed("t") == ["t:a"]
    assert await listed("nothing") == []
    assert await listed("s", {"user": "ada"}) == ["s:b"]
    assert await listed("", {"user": "ada"}) == ["t"]


async def test_a_session_is_deleted_with_those_of_its_steps(store: Store) -> None:
    root = await _root(store)
    await _end_step(store, root, 2, "m", session_id="s:a")
    await _end_step(store, root, 3, "m", session_id="s:b")
    await finish(store, await _root(store, "s:b"), "talk")
    await store.label_session("default", "s:a", {"user": "ada"})
    with pytest.raises(SessionBusyError):
        await store.delete_session("default", "s")
    assert len(await store.list_sessions("default", None, 10, base="s")) == 2
    await finish(store, root, at=4)
    # The root, its two children, and the run that began in the session of a step.
    assert await store.delete_session("default", "s") == 4
    for session_id in ("s", "s:a", "s:b"):
        assert await store.get_session("default", session_id) is None
        assert await _said(store, session_id) == []
    again = await _root(store)
    await _end_step(store, again, 2, "new")
    assert (await _session(store, "s:a")).labels == {}
    assert [said for *_, said in await _said(store, "s:a")] == ["new"]
    assert await store.list_sessions("default", None, 10, {"user": "ada"}, "s") == []


async def test_a_steps_session_that_somebody_uses_outlives_its_base(store: Store) -> None:
    root = await _root(store)
    await _end_step(store, root, 2, "m")
    await finish(store, root, at=3)
    talk = await _root(store, "s:a")
    assert await store.delete_session("default", "s") == 2
    await finish(store, talk, "t")
    session = await _session(store, "s:a")
    assert (session.base_session_id, session.message_count) == ("", 2)
    assert [said for *_, said in await _said(store, "s:a")] == ["m", "t"]
    assert [each.session_id for each in await store.list_sessions("default", None, 10)] == ["s:a"]


async def test_what_is_not_kept_is_found_by_sessions_of_no_step(store: Store) -> None:
    for name in ("s", "t"):
        root = await _root(store, name)
        for number in (2, 3):
            await _end_step(store, root, number, "m", session_id=f"{name}:{number}", base=name)
        await finish(store, root, at=4)
    assert await store.old_sessions(2**60, 10) == [("default", "s"), ("default", "t")]
    assert await store.surplus_sessions(1, 10) == [("default", "s")]


async def test_a_steps_session_survives_a_restart(open_store: OpenStore) -> None:
    async with open_store() as store:
        await _end_step(store, await _root(store), 2, "m")
        before = await _session(store, "s:a")
    async with open_store() as store:
        assert await _session(store, "s:a") == before


@pytest.mark.parametrize("known", [False, True])
async def test_an_engine_may_stop_anywhere_in_the_end_of_a_step(mongodb_uri: str, *, known: bool) -> None:
    async with open_mongo_store(mongodb_uri) as store:
        for writes in itertools.count():
            base, step = f"s{writes}", f"s{writes}:a"
            root = await _root(store, base)
            if known:
                await _end_step(store, root, 2, "m0", session_id=step, base=base)
            child = make_child(root, 9, session_id=step)

            async def end(
                engine: Store, root: RunRow = root, child: RunRow = child, base: str = base
            ) -> None:
                await _append(engine, root, 3, child, "m1", "m2", base=base)

            finished = await do_until_stopped(mongodb_uri, writes, end)
            # Whoever takes the run over writes the same again, and goes on.
            await end(store)
            await _end_step(store, root, 4, "m3", session_id=step, base=base)
            assert [said for *_, said in await _said(store, step)] == [*["m0"] * known, "m1", "m2", "m3"]
            assert (await _session(store, step)).totals == Totals(runs=2 + known, turns=2 * (2 + known))
            assert (await _session(store, step)).message_count == 3 + known
            if finished:
                return


async def test_an_engine_may_stop_anywhere_in_a_deletion_with_steps(mongodb_uri: str) -> None:
    async with open_mongo_store(mongodb_uri) as store:
        for writes in itertools.count():
            base = f"s{writes}"
            root = await _root(store, base)
            for number in (2, 3):
                await _end_step(store, root, number, "m", session_id=f"{base}:{number}", base=base)
            await finish(store, root, at=4)
            finished = await do_until_stopped(
                mongodb_uri, writes, lambda engine, base=base: engine.delete_session("default", base)
            )
            await store.delete_session("default", base)
            assert await store.list_sessions("default", None, 10, base=base) == []
            for session_id in (base, f"{base}:2", f"{base}:3"):
                assert await store.get_session("default", session_id) is None
                assert await _said(store, session_id) == []
            assert await store.get_run("default", root.run_id) is None
            if finished:
                return
