"""The supervisor and the dispatcher with what they do by the clock, opened together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from retinue_engine.runs.dispatcher import Dispatcher
from retinue_engine.runs.leases import Leases
from retinue_engine.runs.supervisor import Supervisor, Work
from retinue_engine.stores.store import Store
from retinue_kit.tasks import open_task_group


class Keepers(NamedTuple):
    """Who keeps the runs of an engine."""

    supervisor: Supervisor
    dispatcher: Dispatcher


@asynccontextmanager
async def open_keepers(
    store: Store, work: Work, *, lease_s: float, max_active_runs: int, max_queued_runs: int
) -> AsyncIterator[Keepers]:
    """Open both, and take up what nobody works on; leaving lets go of every run."""
    async with open_task_group() as group:
        supervisor = Supervisor(store, work, group, lease_s)
        dispatcher = Dispatcher(
            store, supervisor, max_active_runs=max_active_runs, max_queued_runs=max_queued_runs
        )
        await dispatcher.sweep()
        if store.exclusive:
            keeping = [group.create_task(dispatcher.look_again())]
        else:
            leases = Leases(store, supervisor, dispatcher, lease_s)
            keeping = [group.create_task(each()) for each in (leases.renew, leases.hear, leases.look)]
        try:
            yield Keepers(supervisor, dispatcher)
        finally:
            for task in keeping:
                task.cancel()
            # A lease that is being renewed would come after it was given back.
            await asyncio.wait(keeping)
            await supervisor.aclose()
