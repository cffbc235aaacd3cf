"""Which runs this engine takes up: new ones, queued ones whose turn it is, those that nobody works on.

A run begins where there is a free place. Namespaces take turns at the places; in a namespace higher priority
goes first, then the older run; in a session always the older one.
"""

import asyncio
from collections.abc import Sequence

import structlog

from retinue.engine.v1.event_pb2 import RunEvent
from retinue.errors import ClaimLostError, RetinueError, TooManyRunsError
from retinue_engine.convert import now_us
from retinue_engine.ids import new_writer
from retinue_engine.runs.supervisor import ActiveRun, Supervisor
from retinue_engine.runs.takeover import take_over
from retinue_engine.stores.rows import (
    FINAL_STATES,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    SUSPENDED_STATES,
    BlobRow,
    Control,
    InputRow,
    QueuedSession,
    RunRow,
)
from retinue_engine.stores.store import Store
from retinue_engine.story.journal import encode_record

log = structlog.get_logger()

AGAIN_S = 1.0
"""How soon an engine looks again after it could not begin a run that it found."""

SWEEP_LIMIT = 100
"""Most runs that one look takes over, where others look too."""

ALL = 2**31
"""Where nobody else looks, and an engine looks once, when it starts."""

COUNT_S = 1.0
"""How long a count of the queue is good for."""


class Dispatcher:
    """Begins runs, and takes over those that nobody works on."""

    def __init__(
        self, store: Store, supervisor: Supervisor, *, max_active_runs: int, max_queued_runs: int
    ) -> None:
        self._store = store
        self._supervisor = supervisor
        self._max_active_runs = max_active_runs
        self._max_queued_runs = max_queued_runs
        self._coming: set[str] = set()
        """Runs that are being stored or claimed: whoever else finds them in the store leaves them alone."""
        self._missed = asyncio.Event()
        """Set where a run could not be begun."""
        self._backlog = False
        """Whether runs wait that could begin but for a place."""
        self._served = ""
        """The namespace that had its turn last."""
        self._filling = asyncio.Lock()
        self._queued = 0
        self._counted_at = -COUNT_S
        supervisor.on_ended = self._ended

    @property
    def full(self) -> bool:
        """Whether this engine has as many runs as it takes: what comes now is queued."""
        return self._free_places() <= 0

    def _free_places(self) -> int:
        return self._max_active_runs - self._supervisor.count - len(self._coming)

    async def check_queue(self) -> None:
        """Raise TooManyRunsError where as many runs are queued as may be."""
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= COUNT_S:
            self._queued = await self._store.count_queued()
            self._counted_at = now
        if self._queued >= self._max_queued_runs:
            raise TooManyRunsError(
                f"{self._max_queued_runs} runs are queued, as many as may be: try again later, or raise "
                "RETINUE_MAX_QUEUED_RUNS",
                limit=self._max_queued_runs,
                retry_after_s=5,
            )

    async def accept(
        self,
        row: RunRow,
        first: RunEvent,
        *,
        new_session: bool,
        blobs: Sequence[BlobRow] = (),
        reject_busy: bool = False,
    ) -> RunRow:
        """Store a run with its first event and work on it, or queue it; return it as stored.

        It may be another one, where the request is known. A caller that goes away meanwhile leaves no run
        behind that is stored and not worked on. Raises SessionTakenError, SessionBusyError.
        """
        return await self._supervisor.whole(
            self._accept(row, first, new_session=new_session, blobs=blobs, reject_busy=reject_busy)
        )

    async def _accept(
        self,
        row: RunRow,
        first: RunEvent,
        *,
        new_session: bool,
        blobs: Sequence[BlobRow],
        reject_busy: bool,
    ) -> RunRow:
        # Who comes while others wait for a place waits behind them.
        queue = self._backlog or self.full
        record = encode_record(row.run_id, row.writer, [first], 1)
        self._coming.add(row.run_id)
        try:
            stored = await self._store.create_run(
                row, record, new_session=new_session, blobs=blobs, queue=queue, reject_busy=reject_busy
            )
            if stored.writer == row.writer and stored.state == RUN_STATE_RUNNING:
                if self._supervisor.closing:
                    await self._supervisor.give_back([stored])
                else:
                    self._supervisor.start(stored, record, [first])
        finally:
            self._coming.discard(row.run_id)
        if stored.state == RUN_STATE_QUEUED:
            self._queued += 1
            if queue:
                self._backlog = True
                await self._fill()
        return stored

    async def control(self, namespace: str, run_id: str, control: Control) -> RunRow | None:
        """Store what a person wants of a run, and see to it; None: no such run. It is as stored by then."""
        return await self._supervisor.whole(self._control(namespace, run_id, control))

    async def _control(self, namespace: str, run_id: str, control: Control) -> RunRow | None:
        row = await self._store.control_run(namespace, run_id, control)
        if row is not None:
            await self._attend(row)
        return row

    async def answer(self, namespace: str, input_id: str, answer: bytes) -> InputRow | None:
        """Store an answer, and see to the run that waits for it; None: no such request.

        The row tells which answer counts.
        """
        return await self._supervisor.whole(self._answer(namespace, input_id, answer))

    async def _answer(self, namespace: str, input_id: str, answer: bytes) -> InputRow | None:
        stored = await self._store.answer_input(namespace, input_id, answer)
        if stored is not None and stored.answer == answer:
            root = await self._store.get_run(namespace, stored.root_run_id)
            if root is not None:
                await self._attend(root)
        return stored

    async def _attend(self, row: RunRow) -> None:
        """See to a root run for which a word is stored, where it is this engine's or nobody's."""
        if self._supervisor.works_on(row.run_id):
            try:
                await self._supervisor.hear([row.run_id])
            except RetinueError as error:
                log.warning("a run was not told what is wanted", run_id=row.run_id, error=error.message)
        elif row.state in SUSPENDED_STATES or (
            row.state == RUN_STATE_QUEUED and row.cancel_reason is not None
        ):
            await self._take_up(row)

    async def _ended(self, active: ActiveRun) -> None:
        """Begin what could not before this run let go."""
        row = active.row
        if active.suspending:
            await self._wake(active)
        elif not self._backlog:
            await self._begin_next(row.namespace, row.session_id)
        if self._backlog:
            await self._fill()

    async def _wake(self, active: ActiveRun) -> None:
        """Take a run up again at once, where a word for it came while it was let go of."""
        try:
            row = await self._store.get_run(active.row.namespace, active.row.run_id)
            due = row is not None and row.attention_us is not None and row.attention_us <= now_us()
            if row is not None and row.state in SUSPENDED_STATES and (active.unheard or due):
                await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot take up a run again", run_id=active.row.run_id, error=error.message)
            self._missed.set()

    async def _begin_next(self, namespace: str, session_id: str) -> bool:
        """Begin the next run of a session, where one waits; whether it has begun here."""
        if self._supervisor.closing:
            return False  # what an engine that stops lets begin would wait for its lease to end
        try:
            row = await self._store.next_queued(namespace, session_id, self._supervisor.lease_us())
            return row is not None and await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot begin the next run of a session", session_id=session_id, error=error.message)
        except Exception:
            log.exception("cannot begin the next run of a session, by a bug", session_id=session_id)
        self._missed.set()
        return False

    async def _fill(self) -> bool:
        """Begin queued runs of free sessions while there are places; whether any has begun."""
        if self._filling.locked():
            return False  # whoever fills sees the place that has become free
        began = False
        async with self._filling:
            try:
                while not self.full and not self._supervisor.closing:
                    waiting = await self._next_sessions()
                    self._backlog = bool(waiting)
                    tasks = [self._begin_next(each.namespace, each.session_id) for each in waiting]
                    # Side by side: claims that are made together are one commit.
                    begun = await asyncio.gather(*tasks)
                    began = began or any(begun)
                    if not any(begun):
                        break
            except RetinueError as error:
                log.warning("cannot look for queued runs, trying again", error=error.message)
                self._missed.set()
        return began

    async def _next_sessions(self) -> list[QueuedSession]:
        """The sessions whose runs begin next, as many as there are places."""
        places = min(self._free_places(), SWEEP_LIMIT)
        namespaces = sorted(await self._store.queued_namespaces())
        # The one that had its turn last comes last.
        order = [each for each in namespaces if each > self._served]
        order += [each for each in namespaces if each <= self._served]
        queues = [list(await self._store.free_sessions(each, places)) for each in order]
        chosen: list[QueuedSession] = []
        while len(chosen) < places and any(queues):
            for queue in queues:
                if queue and len(chosen) < places:
                    chosen.append(queue.pop(0))
                    self._served = chosen[-1].namespace
        return chosen

    async def _take_over(self, row: RunRow) -> bool:
        """Claim a run and work on it, or finish what its journal says is finished; whether that was done."""
        known = self._supervisor.works_on(row.run_id) or row.run_id in self._coming
        if self._supervisor.closing or known or row.state in FINAL_STATES:
            return False
        waited = row.state == RUN_STATE_QUEUED and row.expire_us is not None and row.expire_us <= now_us()
        self._coming.add(row.run_id)
        try:
            taken = await take_over(self._store, row, new_writer(), self._supervisor.lease_us())
            if taken is None:
                return True
            # A word that came while it was claimed found nobody to tell.
            now = await self._store.get_run(row.namespace, row.run_id)
            if now is not None:
                row.cancel_reason, row.pause_reason = now.cancel_reason, now.pause_reason
                row.attention_us = now.attention_us
            if self._supervisor.closing:
                await self._supervisor.give_back([row])
            else:
                self._supervisor.start(row, taken.record, taken.past, taken_over=True, expired=waited)
        except ClaimLostError:
            return False  # somebody else was quicker
        finally:
            self._coming.discard(row.run_id)
        return True

    async def sweep(self) -> bool:
        """Take over the runs that nobody works on, and begin those whose turn has come.

        Whether there may be more that could not be looked at.
        """
        limit = ALL if self._store.exclusive else SWEEP_LIMIT
        abandoned = await self._store.abandoned_runs(now_us(), limit)
        # Side by side: claims that are made together are one commit.
        taken = await asyncio.gather(*(self._take_up(row) for row in abandoned))
        more = len(abandoned) == limit and any(taken)
        return await self.look_due() or more

    async def look_due(self) -> bool:
        """Take up what an hour has come for: answers, expiries, queued runs; whether there may be more."""
        now = now_us()
        due = await self._store.due_runs(now, SWEEP_LIMIT)
        expired = await self._store.expired_runs(now, SWEEP_LIMIT)
        # Only who gets on looks again at once: what cannot be taken is found again each time.
        taken = await asyncio.gather(*(self._take_up(row) for row in (*due, *expired)))
        began = await self._fill()
        full_look = len(due) == SWEEP_LIMIT or len(expired) == SWEEP_LIMIT
        return (full_look and any(taken)) or (began and self._backlog and not self.full)

    async def _take_up(self, row: RunRow) -> bool:
        """Take over a run that waits for that; one that cannot be taken holds up no other."""
        if self._supervisor.works_on(row.run_id):
            return False
        log.debug("taking up a run", run_id=row.run_id)
        try:
            return await self._take_over(row)
        except RetinueError as error:
            log.warning("cannot take over a run", run_id=row.run_id, error=error.message)
        except Exception:
            log.exception("cannot take over a run, by a bug", run_id=row.run_id)
        self._missed.set()
        return False

    async def look_again(self) -> None:
        """Look by the clock, until cancelled, where no other engine does: for hours that have come."""
        while True:
            await asyncio.sleep(AGAIN_S)
            missed = self._missed.is_set()
            self._missed.clear()
            try:
                while await (self.sweep() if missed else self.look_due()):
                    pass
            except RetinueError as error:
                log.warning("cannot look for runs that nobody works on, trying again", error=error.message)
                self._missed.set()
