"""The runs that this engine works on: each has one task, one journal, one feed."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from retinue.engine.v1 import event_pb2
from retinue.errors import ClaimLostError, RetinueError, TooManyRunsError
from retinue_engine.convert import now_us
from retinue_engine.feed import Feed
from retinue_engine.journal import Journal
from retinue_engine.store import FINAL_STATES, RUN_STATE_QUEUED, JournalRecord, RunRow, Store
from retinue_engine.takeover import take_over

log = structlog.get_logger()

CLOSE_S = 5.0
"""How long runs may take to let go when the engine stops: connections to close, an append in flight."""

SWEEP_S = 1.0
"""How often an engine on a shared store renews its leases and looks for runs that nobody works on."""

SWEEP_LIMIT = 100
"""Most runs that one look takes over."""


@dataclass(slots=True)
class ActiveRun:
    """A run at work."""

    row: RunRow
    journal: Journal
    feed: Feed
    past: list[event_pb2.RunEvent]
    """What happened before this engine took it up; empty for a run that begins."""
    cancel_reason: str | None = None
    """What a canceller said; None where nobody cancelled."""
    lost: bool = False
    """Whether another engine has taken it over."""
    ending: bool = False
    """Whether its end is being written: nothing can change it now."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)


Work = Callable[[ActiveRun], Awaitable[None]]
"""Works on a run to its end, and writes it. Cancelled, it lets go, unless the run was cancelled."""


class Supervisor:
    """Starts runs, finds those that nobody works on, cancels them; lets go of all when the engine stops."""

    def __init__(
        self, store: Store, work: Work, group: asyncio.TaskGroup, *, lease_s: float, max_active_runs: int
    ) -> None:
        self._store = store
        self._work = work
        self._group = group
        self._lease_s = lease_s
        self._max_active_runs = max_active_runs
        self._active: dict[str, ActiveRun] = {}
        self._closing = False

    def feed_of(self, root_run_id: str) -> Feed | None:
        """The feed of a run that this engine works on; None for every other."""
        active = self._active.get(root_run_id)
        return active.feed if active else None

    def check_room(self) -> None:
        """Raise TooManyRunsError where this engine has as many runs as it takes."""
        if len(self._active) >= self._max_active_runs:
            raise TooManyRunsError(
                f"this engine works on {self._max_active_runs} runs, as many as it takes: try again later, "
                "or raise RETINUE_MAX_ACTIVE_RUNS",
                limit=self._max_active_runs,
            )

    @staticmethod
    def new_writer() -> str:
        """A token for a claim."""
        return secrets.token_hex(8)

    def lease_us(self) -> int:
        """When a lease that begins now is over."""
        return now_us() + int(self._lease_s * 1_000_000)

    def start(self, row: RunRow, head: JournalRecord, past: list[event_pb2.RunEvent]) -> None:
        """Work on a run whose last record is stored under this engine's claim."""
        feed = Feed(through=head.first_sequence - 1)
        feed.publish(head)
        journal = Journal(
            self._store,
            feed,
            row.run_id,
            row.writer,
            head.last_sequence,
            on_lost=lambda: self._lose(row.run_id),
        )
        active = ActiveRun(row, journal, feed, past, cancel_reason=row.cancel_reason)
        self._active[row.run_id] = active
        active.task = self._group.create_task(self._run(active), name=row.run_id)

    async def _run(self, active: ActiveRun) -> None:
        """The top of a run's task: nothing that happens in a run leaves it."""
        row = active.row
        try:
            await self._work(active)
        except ClaimLostError:
            log.warning("another engine has taken the run over", run_id=row.run_id)
        except RetinueError as error:
            log.warning("a run was let go", run_id=row.run_id, error=error.message)
        except Exception:
            log.exception("a run was let go by a bug", run_id=row.run_id)
        finally:
            del self._active[row.run_id]
            active.feed.end(finished=active.ending and active.feed.through >= active.journal.head)
        await self._begin_next(row.namespace, row.session_id)

    async def _begin_next(self, namespace: str, session_id: str) -> None:
        try:
            row = await self._store.next_queued(namespace, session_id)
            if row is not None:
                await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot begin the next run of a session", session_id=session_id, error=error.message)

    def _lose(self, run_id: str) -> None:
        active = self._active.get(run_id)
        if active and active.task:
            active.lost = True
            active.task.cancel()

    async def cancel(self, row: RunRow) -> None:
        """End a run whose `cancel_reason` is stored, where it is this engine's or nobody's."""
        active = self._active.get(row.run_id)
        if active:
            self._cancel_active(active, row.cancel_reason or "")
        elif row.state == RUN_STATE_QUEUED:
            await self._take_over(row)

    def _cancel_active(self, active: ActiveRun, reason: str) -> None:
        if active.cancel_reason is None and not active.ending and active.task:
            active.cancel_reason = reason
            active.task.cancel()

    async def _take_over(self, row: RunRow) -> None:
        """Claim a run and work on it; or finish what its journal says is finished."""
        if self._closing or row.run_id in self._active or row.state in FINAL_STATES:
            return
        try:
            taken = await take_over(self._store, row, self.new_writer(), self.lease_us())
        except ClaimLostError:
            return  # somebody else was quicker
        if taken is not None and not self._closing:
            self.start(row, taken.record, taken.past)

    async def sweep(self) -> None:
        """Take over the runs that nobody works on, and begin those whose session has become free."""
        while rows := await self._store.abandoned_runs(now_us(), SWEEP_LIMIT):
            rows = [row for row in rows if row.run_id not in self._active]
            for row in rows:
                log.info("taking over a run", run_id=row.run_id)
                await self._take_over(row)
            if len(rows) < SWEEP_LIMIT or not self._store.exclusive:
                break
        for namespace, session_id in await self._store.waiting_sessions(SWEEP_LIMIT):
            await self._begin_next(namespace, session_id)

    async def keep_leases(self) -> None:
        """Renew leases, hear of cancels, and sweep, until cancelled: for a store that engines share."""
        while True:
            await asyncio.sleep(min(SWEEP_S, self._lease_s / 3))
            try:
                for row in await self._store.renew_leases(list(self._active), self.lease_us()):
                    active = self._active.get(row.run_id)
                    if active:
                        self._cancel_active(active, row.cancel_reason or "")
                await self.sweep()
            except RetinueError as error:
                log.warning("cannot look after the runs in the store", error=error.message)

    async def aclose(self) -> None:
        """Let go of all runs. They stay unfinished in the store and go on when an engine takes them up."""
        self._closing = True
        runs = list(self._active.values())
        for active in runs:
            if active.task:
                active.task.cancel()
        tasks = [active.task for active in runs if active.task]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        if not self._store.exclusive and runs:
            try:
                await self._store.renew_leases([active.row.run_id for active in runs], 0)
            except RetinueError as error:
                log.warning("cannot give back leases; they end by themselves", error=error.message)


@asynccontextmanager
async def open_supervisor(
    store: Store, work: Work, *, lease_s: float, max_active_runs: int
) -> AsyncIterator[Supervisor]:
    """Open the supervisor, which takes up what nobody works on; leaving lets go of every run."""
    async with asyncio.TaskGroup() as group:
        supervisor = Supervisor(store, work, group, lease_s=lease_s, max_active_runs=max_active_runs)
        await supervisor.sweep()
        keeping = None if store.exclusive else group.create_task(supervisor.keep_leases())
        try:
            yield supervisor
        finally:
            if keeping:
                keeping.cancel()
            await supervisor.aclose()
