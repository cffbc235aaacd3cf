"""A word that an engine took and could not pass on before it let go of a run: the run is due all the same."""

import pytest

from retinue_engine.stores.rows import RUN_STATE_PAUSED, RUN_STATE_WAITING, Control, Effects, Suspension
from retinue_engine.stores.store import Store
from tests.contract.engine_store.rows import create, ids, make_input, make_run, record, suspend

PAUSE, RESUME = Control(pause_reason="lunch"), Control(resume=True)


@pytest.mark.parametrize(
    ("controls", "state", "is_due"),
    [
        ([], RUN_STATE_WAITING, False),
        ([Control(cancel_reason="")], RUN_STATE_WAITING, True),
        ([PAUSE], RUN_STATE_WAITING, True),
        ([PAUSE, RESUME], RUN_STATE_WAITING, False),
        ([PAUSE], RUN_STATE_PAUSED, False),
        ([Control(pause_reason="")], RUN_STATE_PAUSED, False),
        ([PAUSE, RESUME], RUN_STATE_PAUSED, True),
        ([PAUSE, Control(cancel_reason="why")], RUN_STATE_PAUSED, True),
    ],
)
async def test_a_command_that_was_taken_wakes_a_run_that_does_not_know_of_it(
    store: Store, controls: list[Control], state: int, *, is_due: bool
) -> None:
    run = await create(store, make_run())
    for control in controls:
        await store.control_run("default", run.run_id, control)
    await store.take_commands([run.run_id])
    await suspend(store, run, until_us=300, state=state)
    assert ids(await store.due_runs(1, 10)) == ([run.run_id] if is_due else [])
    assert ids(await store.due_runs(300, 10)) == [run.run_id]


async def test_an_answer_that_was_heard_of_wakes_a_run_that_waits_for_it(store: Store) -> None:
    run = await create(store, make_run())
    answered, other = make_input(run, 1), make_input(run, 2)
    await store.append(record(run, 2), Effects(inputs=[answered, other]))
    await store.answer_input("default", answered.input_id, b"yes")
    await store.take_commands([run.run_id])
    for at, waits_for, due in ((3, other, []), (5, answered, [run.run_id])):
        suspension = Suspension(run.run_id, RUN_STATE_WAITING, 300, (waits_for.input_id,))
        await store.append(record(run, at), Effects(suspension=suspension))
        assert ids(await store.due_runs(1, 10)) == due
        await store.claim(run, record(run, at + 1), 0)
