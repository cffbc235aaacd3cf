"""The runs that this engine works on: each has one task, one journal, one feed."""

import asyncio
import contextlib
import contextvars
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from retinue.engine.v1 import event_pb2
from retinue.errors import ClaimLostError, RetinueError, TooManyRunsError
from retinue_engine.convert import now_us
from retinue_engine.feed import Feed
from retinue_engine.journal import Journal
from retinue_engine.leases import Leases
from retinue_engine.store import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    JournalRecord,
    RunRow,
    Store,
)
from retinue_engine.takeover import take_over
from retinue_kit.tasks import open_task_group

log = structlog.get_logger()

Done = TypeVar("Done")

CLOSE_S = 5.0
"""How long runs may take to let go when the engine stops: connections to close, an append in flight."""

AGAIN_S = 1.0
"""How soon an engine looks again after it could not begin a run that it found."""

SWEEP_LIMIT = 100
"""Most runs that one look takes over, where others look too."""

ALL = 2**31
"""Where nobody else looks, and an engine looks once, when it starts."""


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
    begun: bool = False
    """Whether its task has taken its first step: one that is cancelled before never takes it."""
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
        self._coming: set[str] = set()
        """Runs that are being stored or claimed: whoever else finds them in the store leaves them alone."""
        self._missed = asyncio.Event()
        """Set where a run could not be begun."""
        self._closing = False
        self._context = contextvars.copy_context()

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
            on_lost=lambda: self._lose(active),
        )
        active = ActiveRun(row, journal, feed, past, cancel_reason=row.cancel_reason)
        self._active[row.run_id] = active
        # A run that begins is part of its caller's trace; one that is taken over, of nobody's here.
        context = self._context.copy() if past else None
        active.task = self._group.create_task(self._run(active), name=row.run_id, context=context)

    async def accept(self, row: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        """Store a run with its first record and work on it; return it as stored. Raises SessionTakenError.

        It may be another one, where the request is known. A caller that goes away meanwhile leaves no run
        behind that is stored and not worked on.
        """
        return await self._whole(self._accept(row, first, new_session=new_session))

    async def _accept(self, row: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        self._coming.add(row.run_id)
        try:
            stored = await self._store.create_run(row, first, new_session=new_session)
            if stored.writer == row.writer and stored.state == RUN_STATE_RUNNING:
                if self._closing:
                    await self._give_back([stored])
                else:
                    self.start(stored, first, [])
        finally:
            self._coming.discard(row.run_id)
        return stored

    async def _whole(self, doing: Coroutine[Any, Any, Done]) -> Done:
        """Do something to its end, also where the caller is cancelled."""

        async def guarded() -> Done | Exception:
            try:
                return await doing
            except Exception as error:  # noqa: BLE001 - for the caller; here it would end the group
                return error

        outcome = await asyncio.shield(self._group.create_task(guarded()))
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _run(self, active: ActiveRun) -> None:
        """The top of a run's task: nothing that happens in a run leaves it."""
        active.begun = True
        row = active.row
        structlog.contextvars.bind_contextvars(run_id=row.run_id)
        try:
            await self._work(active)
        except ClaimLostError:
            log.warning("another engine has taken the run over", run_id=row.run_id)
        except RetinueError as error:
            log.warning("a run was let go", run_id=row.run_id, error=error.message)
        except Exception:
            log.exception("a run was let go by a bug", run_id=row.run_id)
        finally:
            if self._active.get(row.run_id) is active:
                del self._active[row.run_id]
            active.feed.end(finished=active.ending and active.feed.through >= active.journal.head)
        await self._begin_next(row.namespace, row.session_id)

    async def _begin_next(self, namespace: str, session_id: str) -> bool:
        """Begin the next run of a session, where one waits; whether it has begun here."""
        if self._closing:
            return False  # what an engine that stops lets begin would wait for its lease to end
        try:
            row = await self._store.next_queued(namespace, session_id, self.lease_us())
            return row is not None and await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot begin the next run of a session", session_id=session_id, error=error.message)
        except Exception:
            log.exception("cannot begin the next run of a session, by a bug", session_id=session_id)
        self._missed.set()
        return False

    def _lose(self, active: ActiveRun) -> None:
        # One that has not begun cannot be cancelled, and has done nothing yet: it loses at its first append.
        if active.task and active.begun:
            active.lost = True
            active.journal.stop()
            active.task.cancel()

    def held(self) -> list[RunRow]:
        """The runs that this engine works on."""
        return [active.row for active in self._active.values()]

    def hear_lost(self, run: RunRow) -> None:
        """Let go of a run that another engine has taken over."""
        active = self._active.get(run.run_id)
        if active and active.row.writer == run.writer:
            log.warning("another engine has taken the run over", run_id=run.run_id)
            self._lose(active)

    def hear_cancelled(self, run_id: str, reason: str) -> None:
        """End a run, where it is this engine's, that was cancelled somewhere else."""
        active = self._active.get(run_id)
        if active:
            self._cancel_active(active, reason)

    async def cancel(self, namespace: str, run_id: str, reason: str) -> RunRow | None:
        """Store that a run is to end, and end it where it is this engine's or nobody's; None: no such run."""
        return await self._whole(self._cancel(namespace, run_id, reason))

    async def _cancel(self, namespace: str, run_id: str, reason: str) -> RunRow | None:
        row = await self._store.request_cancel(namespace, run_id, reason)
        if row is None or row.state in FINAL_STATES:
            return row
        active = self._active.get(row.run_id)
        if active:
            self._cancel_active(active, row.cancel_reason or "")
        elif row.state == RUN_STATE_QUEUED:
            await self._take_over(row)
        return row

    def _cancel_active(self, active: ActiveRun, reason: str) -> None:
        if active.cancel_reason is None and not active.ending and active.task:
            active.cancel_reason = reason
            if active.begun:
                active.task.cancel()

    async def _take_over(self, row: RunRow) -> bool:
        """Claim a run and work on it, or finish what its journal says is finished; whether that was done."""
        known = row.run_id in self._active or row.run_id in self._coming
        if self._closing or known or row.state in FINAL_STATES:
            return False
        self._coming.add(row.run_id)
        try:
            taken = await take_over(self._store, row, self.new_writer(), self.lease_us())
            if taken is None:
                return True
            # A cancel that came while it was claimed found nobody to tell.
            now = await self._store.get_run(row.namespace, row.run_id)
            row.cancel_reason = now.cancel_reason if now else row.cancel_reason
            if self._closing:
                await self._give_back([row])
            else:
                self.start(row, taken.record, taken.past)
        except ClaimLostError:
            return False  # somebody else was quicker
        finally:
            self._coming.discard(row.run_id)
        return True

    async def sweep(self) -> bool:
        """Take over the runs that nobody works on, and begin those whose session has become free.

        Whether there may be more that could not be looked at.
        """
        limit = ALL if self._store.exclusive else SWEEP_LIMIT
        rows = await self._store.abandoned_runs(now_us(), limit)
        # Side by side: claims that are made together are one commit.
        async with asyncio.TaskGroup() as group:
            taking = [group.create_task(self._take_up(row)) for row in rows]
        sessions = await self._store.waiting_sessions(limit)
        async with asyncio.TaskGroup() as group:
            beginning = [group.create_task(self._begin_next(*session)) for session in sessions]
        # What cannot be taken is found again each time: only who gets on looks again at once.
        return any(
            len(tasks) == limit and any(task.result() for task in tasks) for tasks in (taking, beginning)
        )

    async def _take_up(self, row: RunRow) -> bool:
        """Take over a run that a sweep found; one that cannot be taken holds up no other."""
        if row.run_id in self._active:
            return False
        log.info("taking over a run", run_id=row.run_id)
        try:
            return await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot take over a run", run_id=row.run_id, error=error.message)
        except Exception:
            log.exception("cannot take over a run, by a bug", run_id=row.run_id)
        self._missed.set()
        return False

    async def look_again(self) -> None:
        """Look again, until cancelled, after a run could not be begun: for a store that is not shared."""
        while True:
            await self._missed.wait()
            self._missed.clear()
            await asyncio.sleep(AGAIN_S)
            try:
                await self.sweep()
            except RetinueError as error:
                log.warning("cannot look for runs that nobody works on, trying again", error=error.message)
                self._missed.set()

    async def _give_back(self, runs: Sequence[RunRow]) -> None:
        """Let others take runs over at once."""
        if self._store.exclusive or not runs:
            return
        try:
            await self._store.renew_leases(runs, 0)
        except RetinueError as error:
            log.warning("cannot give back leases; they end by themselves", error=error.message)

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
        # What was finished is not done again: it goes into the store before this engine lets go.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(*(active.journal.commit() for active in runs), return_exceptions=True)
        for active in runs:
            active.journal.stop()
        await self._give_back([active.row for active in runs])


@asynccontextmanager
async def open_supervisor(
    store: Store, work: Work, *, lease_s: float, max_active_runs: int
) -> AsyncIterator[Supervisor]:
    """Open the supervisor, which takes up what nobody works on; leaving lets go of every run."""
    async with open_task_group() as group:
        supervisor = Supervisor(store, work, group, lease_s=lease_s, max_active_runs=max_active_runs)
        await supervisor.sweep()
        if store.exclusive:
            keeping = [group.create_task(supervisor.look_again())]
        else:
            leases = Leases(store, supervisor, lease_s)
            keeping = [group.create_task(each()) for each in (leases.renew, leases.hear, leases.look)]
        try:
            yield supervisor
        finally:
            for task in keeping:
                task.cancel()
            # A lease that is being renewed would come after it was given back.
            await asyncio.wait(keeping)
            await supervisor.aclose()
