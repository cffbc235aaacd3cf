"""Requests for input: made with a record, answered once, and received with a record."""

import asyncio
from dataclasses import replace

import pytest

from retinue.engine.v1.input_pb2 import (
    INPUT_STATE_ANSWERED,
    INPUT_STATE_CLOSED,
    INPUT_STATE_PENDING,
    InputState,
)
from retinue.errors import ClaimLostError
from retinue_engine.stores.rows import NOW, Effects, InputRow, RunRow
from retinue_engine.stores.store import Store

from .conftest import OpenStore
from .rows import (
    LATER_US,
    create,
    end_of,
    ends,
    finish,
    get,
    ids,
    make_child,
    make_input,
    make_run,
    record,
    suspend,
)


async def _ask(store: Store, run: RunRow, *numbers: int, at: int = 2) -> list[InputRow]:
    asked = [make_input(run, number) for number in numbers or (1,)]
    await store.append(record(run, at), Effects(inputs=asked))
    return asked


async def _stored(store: Store, asked: InputRow) -> InputRow:
    stored = await store.get_input(asked.namespace, asked.input_id)
    assert stored is not None
    return stored


async def _states(store: Store, asked: list[InputRow]) -> list[InputState.ValueType]:
    return [InputState.ValueType((await _stored(store, each)).state) for each in asked]


async def _listed(
    store: Store, root_run_id: str = "", *, closed: bool = False, limit: int = 100
) -> list[str]:
    """The ids that are listed, page after page."""
    found: list[InputRow] = []
    while page := await store.list_inputs(
        "default",
        root_run_id,
        (found[-1].create_us, found[-1].input_id) if found else None,
        limit,
        closed=closed,
    ):
        assert len(page) <= limit
        found += page
    return [each.input_id for each in found]


async def test_a_request_is_read_as_it_was_made(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    assert await _stored(store, asked) == asked
    assert asked.state == INPUT_STATE_PENDING
    assert await store.get_input("other", asked.input_id) is None
    assert await store.answered_inputs(run.run_id) == []


async def test_an_answer_is_stored_once(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    answered = replace(asked, state=INPUT_STATE_ANSWERED, answer=b"yes")
    assert await store.answer_input("default", asked.input_id, b"yes") == answered
    assert await store.answer_input("default", asked.input_id, b"yes") == answered
    assert await store.answer_input("default", asked.input_id, b"no") == answered
    assert await store.answer_input("other", asked.input_id, b"no") is None
    assert await _stored(store, asked) == answered


async def test_of_many_answers_at_once_one_counts(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    answers = [b"answer %d" % number for number in range(10)]
    found = await asyncio.gather(
        *(store.answer_input("default", asked.input_id, answer) for answer in answers)
    )
    assert len({each.answer for each in found if each}) == 1
    assert found[0] == await _stored(store, asked)
    assert found[0] is not None
    assert found[0].answer in answers


async def test_an_answer_is_a_word_for_a_run_at_work(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    await store.answer_input("default", asked.input_id, b"yes")
    assert await store.commanded_runs() == [run.run_id]
    assert len(await store.take_commands([run.run_id])) == 1
    # Whoever gave it may not have learnt that it was stored: it wakes again.
    await store.answer_input("default", asked.input_id, b"yes")
    assert await store.commanded_runs() == [run.run_id]


async def test_an_answer_makes_a_suspended_run_due(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    await suspend(store, run, 3, until_us=300)
    await store.answer_input("default", asked.input_id, b"yes")
    due = await store.due_runs(1, 10)
    assert [(each.run_id, each.attention_us) for each in due] == [(run.run_id, NOW)]


async def test_an_answer_to_a_child_wakes_its_root(store: Store) -> None:
    root = await create(store, make_run())
    child, asked = make_child(root), make_input(root)
    await store.append(record(root, 2), Effects(children=[child], inputs=[asked]))
    await suspend(store, root, 3)
    await store.answer_input("default", asked.input_id, b"yes")
    assert ids(await store.due_runs(1, 10)) == [root.run_id]
    assert (await get(store, child)).attention_us is None


async def test_an_answer_that_does_not_count_wakes_nobody(store: Store) -> None:
    run = await create(store, make_run())
    answered, closed = await _ask(store, run, 1, 2)
    await store.answer_input("default", answered.input_id, b"yes")
    await store.append(record(run, 3), Effects(received=[answered.input_id, closed.input_id]))
    await store.take_commands([run.run_id])
    await store.answer_input("default", answered.input_id, b"no")
    await store.answer_input("default", closed.input_id, b"no")
    assert await store.commanded_runs() == []


async def test_answers_are_found_until_the_journal_has_them(store: Store) -> None:
    run, other = await create(store, make_run()), await create(store, make_run())
    asked = await _ask(store, run, 1, 2, 3)
    (elsewhere,) = await _ask(store, other)
    for each in (*asked[:2], elsewhere):
        await store.answer_input("default", each.input_id, b"yes")
    found = {each.input_id: each.answer for each in await store.answered_inputs(run.run_id)}
    assert found == {asked[0].input_id: b"yes", asked[1].input_id: b"yes"}
    for _ in range(2):
        await store.append(record(run, 3), Effects(received=[asked[0].input_id]))
    assert [each.input_id for each in await store.answered_inputs(run.run_id)] == [asked[1].input_id]
    received = await _stored(store, asked[0])
    assert (received.state, received.answer, received.received) == (INPUT_STATE_ANSWERED, b"yes", True)


async def test_a_request_that_expires_is_closed(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    await store.append(record(run, 3), Effects(received=[asked.input_id]))
    closed = await _stored(store, asked)
    assert (closed.state, closed.answer, closed.received) == (INPUT_STATE_CLOSED, None, True)
    assert await store.answer_input("default", asked.input_id, b"late") == closed
    assert await store.answered_inputs(run.run_id) == []


async def test_of_an_answer_and_its_expiry_at_once_the_row_says_one(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    answered, _ = await asyncio.gather(
        store.answer_input("default", asked.input_id, b"yes"),
        store.append(record(run, 3), Effects(received=[asked.input_id])),
    )
    assert answered is not None
    stored = await _stored(store, asked)
    assert stored.received
    assert (stored.state, stored.answer) in {(INPUT_STATE_ANSWERED, b"yes"), (INPUT_STATE_CLOSED, None)}
    assert (answered.state, answered.answer) == (stored.state, stored.answer)


async def test_the_end_of_a_tree_closes_what_is_pending_of_it(store: Store) -> None:
    run, other = await create(store, make_run()), await create(store, make_run())
    answered, pending = await _ask(store, run, 1, 2)
    elsewhere = await _ask(store, other)
    await store.answer_input("default", answered.input_id, b"yes")
    for _ in range(2):
        await store.append(record(run, 3), ends(end_of(run, closes_inputs=True)))
    assert await _states(store, [answered, pending]) == [INPUT_STATE_ANSWERED, INPUT_STATE_CLOSED]
    assert await _states(store, elsewhere) == [INPUT_STATE_PENDING]
    late = await store.answer_input("default", pending.input_id, b"late")
    assert late is not None
    assert (late.state, late.answer) == (INPUT_STATE_CLOSED, None)


async def test_an_answer_does_not_touch_a_run_that_has_ended(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    await store.answer_input("default", asked.input_id, b"yes")
    await store.take_commands([run.run_id])
    await finish(store, run, at=3)
    ended = await get(store, run)
    await store.answer_input("default", asked.input_id, b"yes")
    assert await get(store, run) == ended


async def test_a_request_that_is_made_again_keeps_its_answer(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    answered = await store.answer_input("default", asked.input_id, b"yes")
    await _ask(store, run)
    assert await _stored(store, asked) == answered


async def test_who_was_taken_over_asks_and_receives_nothing(store: Store) -> None:
    run = await create(store, make_run())
    (asked,) = await _ask(store, run)
    await store.claim(run, record(run, 3, writer="new"), LATER_US)
    second = make_input(run, 2)
    with pytest.raises(ClaimLostError):
        await store.append(record(run, 3), Effects(inputs=[second], received=[asked.input_id]))
    assert await store.get_input("default", second.input_id) is None
    assert await _stored(store, asked) == asked


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_requests_are_listed_from_the_newest_page_after_page(store: Store, limit: int) -> None:
    one, two = await create(store, make_run()), await create(store, make_run())
    # Some were made in the same microsecond.
    of_one = [make_input(one, number, create_us=1_000 + number // 2) for number in range(5)]
    of_two = [make_input(two, number, create_us=1_000 + number // 2) for number in range(5)]
    elsewhere = await create(store, make_run(namespace="other"))
    await store.append(record(one, 2), Effects(inputs=of_one))
    await store.append(record(two, 2), Effects(inputs=of_two))
    await _ask(store, elsewhere)
    answered, expired = of_one[1], of_one[2]
    await store.answer_input("default", answered.input_id, b"yes")
    await store.append(record(one, 3), Effects(received=[expired.input_id]))

    def newest(asked: list[InputRow]) -> list[str]:
        ordered = sorted(asked, key=lambda each: (each.create_us, each.input_id), reverse=True)
        return [each.input_id for each in ordered]

    pending = [each for each in of_one if each not in (answered, expired)]
    assert await _listed(store, limit=limit) == newest([*pending, *of_two])
    assert await _listed(store, limit=limit, closed=True) == newest([*of_one, *of_two])
    assert await _listed(store, one.run_id, limit=limit) == newest(pending)
    assert await _listed(store, one.run_id, limit=limit, closed=True) == newest(of_one)
    assert await store.list_inputs("other", one.run_id, None, 10, closed=True) == []


async def test_reopening_keeps_requests_and_answers(open_store: OpenStore) -> None:
    async with open_store() as store:
        run = await create(store, make_run())
        answered, pending = await _ask(store, run, 1, 2)
        await store.answer_input("default", answered.input_id, b"yes")
        kept = [await _stored(store, each) for each in (answered, pending)]
    async with open_store() as store:
        assert [await _stored(store, each) for each in (answered, pending)] == kept
        assert [each.input_id for each in await store.answered_inputs(run.run_id)] == [answered.input_id]
