"""The runs that this engine works on: each has one task, one journal, one feed."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import structlog

from retinue.engine.v1 import event_pb2
from retinue.errors import ClaimLostError, RetinueError
from retinue_engine.convert import now_us
from retinue_engine.stores.rows import JournalRecord, RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.feed import Feed
from retinue_engine.story.journal import Journal

log = structlog.get_logger()

Done = TypeVar("Done")

CLOSE_S = 5.0
"""How long runs may take to let go when the engine stops: connections to close, an append in flight."""


@dataclass(slots=True)
class ActiveRun:
    """A run at work."""

    row: RunRow
    journal: Journal
    feed: Feed
    past: list[event_pb2.RunEvent]
    """What happened before this engine took it up."""
    hear: Callable[[], Awaitable[None]]
    """Takes the words that are stored for it."""
    cancel_reason: str | None = None
    """What a canceller said; None where nobody cancelled."""
    lost: bool = False
    """Whether another engine has taken it over."""
    expired: bool = False
    """Whether its turn came too late."""
    begun: bool = False
    """Whether its task has taken its first step: one that is cancelled before never takes it."""
    ending: bool = False
    """Whether its end is being written: nothing can change it now."""
    suspending: bool = False
    """Whether this engine lets go of it because it waits or is paused."""
    unheard: int = 0
    """Words for it that have not reached it: those on their way, and those that came too late for it."""
    receive: Callable[[], Awaitable[bool]] | None = None
    """Takes in the answers that have come, if it is not too late; None before the work has begun."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)


Work = Callable[[ActiveRun], Awaitable[None]]
"""Works on a run until it ends or waits, and writes that. Cancelled, it lets go, unless its run was."""

Ended = Callable[[ActiveRun], Awaitable[None]]
"""Hears that this engine has let go of a run, however that came."""


class Supervisor:
    """Starts runs and tells them what people want of them; lets go of all when the engine stops."""

    def __init__(self, store: Store, work: Work, group: asyncio.TaskGroup, lease_s: float) -> None:
        self._store = store
        self._work = work
        self._group = group
        self._lease_s = lease_s
        self._active: dict[str, ActiveRun] = {}
        self._context = contextvars.copy_context()
        self._hearing = asyncio.Lock()
        """Words reach runs in the order in which the store has them."""
        self.closing = False
        """Whether the engine stops: nothing new begins."""
        self.on_ended: Ended | None = None

    def feed_of(self, root_run_id: str) -> Feed | None:
        """The feed of a run that this engine works on; None for every other."""
        active = self._active.get(root_run_id)
        return active.feed if active else None

    def works_on(self, root_run_id: str) -> bool:
        """Whether this engine works on a run."""
        return root_run_id in self._active

    @property
    def count(self) -> int:
        """How many runs this engine works on."""
        return len(self._active)

    def held(self) -> list[RunRow]:
        """The runs that this engine works on."""
        return [active.row for active in self._active.values()]

    def lease_us(self) -> int:
        """When a lease that begins now is over."""
        return now_us() + int(self._lease_s * 1_000_000)

    def start(
        self,
        row: RunRow,
        head: JournalRecord,
        past: list[event_pb2.RunEvent],
        *,
        taken_over: bool = False,
        expired: bool = False,
    ) -> None:
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
        hear = partial(self.hear, [row.run_id])
        active = ActiveRun(row, journal, feed, past, hear, cancel_reason=row.cancel_reason, expired=expired)
        self._active[row.run_id] = active
        # A run that begins is part of its caller's trace; one that is taken over, of nobody's here.
        context = self._context.copy() if taken_over else None
        active.task = self._group.create_task(self._run(active), name=row.run_id, context=context)

    async def whole(self, doing: Coroutine[Any, Any, Done]) -> Done:
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
        if self.on_ended is not None:
            await self.on_ended(active)

    def _lose(self, active: ActiveRun) -> None:
        # One that has not begun cannot be cancelled, and has done nothing yet: it loses at its first append.
        if active.task and active.begun:
            active.lost = True
            active.journal.stop()
            active.task.cancel()

    def hear_lost(self, run: RunRow) -> None:
        """Let go of a run that another engine has taken over."""
        active = self._active.get(run.run_id)
        if active and active.row.writer == run.writer:
            log.warning("another engine has taken the run over", run_id=run.run_id)
            self._lose(active)

    async def hear(self, run_ids: Sequence[str]) -> None:
        """Tell runs that this engine works on what people want of them."""
        mine = {run_id: self._active[run_id] for run_id in run_ids if run_id in self._active}
        if not mine:
            return
        for active in mine.values():
            # Until it is told a run may let go of itself; then the word is for who takes it up again.
            active.unheard += 1
        async with self._hearing:
            reached = [
                mine[row.run_id]
                for row in await self._store.take_commands(list(mine))
                if self._tell(mine[row.run_id], row)
            ]
        for active in reached:
            try:
                if active.receive is None or await active.receive():
                    active.unheard -= 1
            except RetinueError as error:
                log.warning("a run was not told its answers", run_id=active.row.run_id, error=error.message)

    def _tell(self, active: ActiveRun, row: RunRow) -> bool:
        """Tell a run what its row says; False where it is too late for that."""
        if active.suspending or active.ending:
            return False
        active.row.pause_reason = row.pause_reason
        if row.cancel_reason is not None:
            self._cancel(active, row.cancel_reason)
        return True

    def _cancel(self, active: ActiveRun, reason: str) -> None:
        if active.cancel_reason is None and active.task:
            active.cancel_reason = reason
            if active.begun:
                active.task.cancel()

    async def give_back(self, runs: Sequence[RunRow]) -> None:
        """Let others take runs over at once."""
        if self._store.exclusive or not runs:
            return
        try:
            await self._store.renew_leases(runs, 0)
        except RetinueError as error:
            log.warning("cannot give back leases; they end by themselves", error=error.message)

    async def aclose(self) -> None:
        """Let go of all runs. They stay unfinished in the store and go on when an engine takes them up."""
        self.closing = True
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
        await self.give_back([active.row for active in runs])
