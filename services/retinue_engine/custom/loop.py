"""A custom workflow's run: its worker is told what its calls gave, and its calls are made once."""

import asyncio
import math
import time
from collections import Counter

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import (
    WORKER_OUTCOME_DONE,
    WORKER_OUTCOME_FAILED,
    WORKER_OUTCOME_PAUSED,
    WORKER_OUTCOME_WAITING,
    WorkerOutcome,
)
from retinue.engine.v1.worker_pb2 import CallAnswer, WorkerBegin, WorkerCall, WorkRequest, WorkResponse
from retinue.errors import (
    ClaimLostError,
    InvalidArgumentError,
    MaxIterationsReachedError,
    NonDeterministicError,
    RetinueError,
    WorkerProtocolBrokenError,
)
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.custom.acting import CallActing
from retinue_engine.custom.calls import check_key, in_one_form, key_of_kind
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.custom.ends import code_error, exit_error, finish, not_connected_error
from retinue_engine.custom.progress import CallProgress, CustomProgress
from retinue_engine.outcome import run_error
from retinue_engine.workers.link import Link, Worker
from retinue_engine.workflow.acting import WorkOn
from retinue_engine.workflow.ends import read_input
from retinue_engine.workflow.values import as_json

MAX_CALLS = 10_000
"""Of one run."""
MAX_OPEN_CALLS = 1_024
"""Of one run, under way side by side."""
REST_S = 0.5
"""How long a worker may work beside calls that all wait, since its last word, before it is let go."""


class CustomLoop:
    """One run of a custom workflow. One that is taken up again runs its code anew, over what the journal has.

    It ends its worker where all calls wait: then nothing is held, and the calls go on without a worker until
    one of them is done.
    """

    def __init__(self, run: WorkflowRun, work_on: WorkOn) -> None:
        if not isinstance(run.state, CustomProgress) or not isinstance(run.definition, CustomDefinition):
            raise TypeError(f"{run.run_id} is no run of a custom workflow")
        self._run = run
        self._state: CustomProgress = run.state
        self._definition: CustomDefinition = run.definition
        self._acting = CallActing(run, self._definition, self._state, work_on, self._on_done, self._wake)
        self._awake = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._asked_by: dict[str, list[int]] = {}
        """The worker's ids of the calls that have no answer, by key."""
        self._held: dict[str, WorkerCall] = {}
        """Calls that are not begun because the run is to pause."""
        self._untold: list[CallAnswer] = []
        """What the worker is told once it is stored."""
        self._telling: asyncio.Task[None] | None = None
        self._worker: Worker | None = None
        self._heard_at = 0.0
        self._letting_go = False
        """Whether nothing new is begun, because the worker ends."""
        self._arrival: asyncio.Future[None] = run.work.arrivals.next()
        self.structured_json = ""
        """The workflow's output as JSON, where it is not just text."""

    async def run(self) -> bool:
        """Go on to the end of the code; whether it has come to it.

        False where all that can go on waits for somebody outside, or the run is to pause. Raises the error
        that fails the workflow.
        """
        self._arrival.add_done_callback(self._on_arrival)
        try:
            if self._state.waiting and not await self._go_on_without_worker():
                return False
            return await self._go_on()
        finally:
            self._arrival.cancel()
            if self._telling is not None:
                self._telling.cancel()
            await self._acting.cancel()

    # Without a worker.

    async def _go_on_without_worker(self) -> bool:
        """Take the calls that wait as far as they can go now; whether one of them is done."""
        for call in list(self._state.open_calls):
            self._acting.advance(call)
        while self._state.waiting:
            if self._acting.at_rest:
                self._acting.remind()
                return False
            await self._until_awake(None)
            self._acting.raise_failure()
        return True

    # With one.

    async def _go_on(self) -> bool:
        run = self._run
        launch = self._definition.program.launch(run.work.means.allowed)
        # What the code does may be seen outside: the run must be this engine's.
        await run.work.journal.confirm_claim()
        begin = WorkerBegin(
            run_id=run.run_id,
            session_id=run.work.row.session_id,
            workflow=self._definition.name,
            entry_point=launch.entry_point,
            input_json=as_json(read_input(self._definition, self._state.message), "input"),
            depth=run.depth,
            number=self._state.workers + 1,
        )
        async with run.work.means.open_worker(launch, begin) as worker:
            self._worker = worker
            worker.link.on_change = self._wake
            run.emit("", worker_started=event_pb2.WorkerStarted(number=begin.number))
            try:
                outcome = await self._listen(worker.link)
            except RetinueError:
                await self._end_worker(worker, WORKER_OUTCOME_FAILED)
                raise
            await self._end_worker(worker, outcome)
        return outcome == WORKER_OUTCOME_DONE

    async def _end_worker(self, worker: Worker, outcome: WorkerOutcome.ValueType) -> None:
        self._letting_go = True
        await self._acting.cancel()
        await worker.finish()
        worker.link.end_lines()
        self._tell_output(worker.link)
        self._worker = None
        ended = event_pb2.WorkerEnded(
            number=self._state.workers, outcome=outcome, dropped_bytes=worker.link.dropped_bytes
        )
        self._run.emit("", worker_ended=ended)

    async def _listen(self, link: Link) -> WorkerOutcome.ValueType:
        """Do what the worker asks until it ends or is let go; how it ended. Raises what fails the run."""
        started = self._heard_at = time.monotonic()
        connect_s = self._run.work.means.worker_connect_s
        gone_at = math.inf
        while True:
            self._tell_output(link)
            while (request := link.take()) is not None:
                self._heard_at = time.monotonic()
                if self._hear(request):
                    return WORKER_OUTCOME_DONE
            self._acting.raise_failure()
            now = time.monotonic()
            if link.ending or link.lost:
                # What it said last may be on its way.
                gone_at = min(gone_at, now)
                heard_all = link.ending and (link.lost or not link.connected)
                if heard_all or now >= gone_at + REST_S:
                    raise exit_error(self._definition.name, link)
                await self._until_awake(gone_at + REST_S)
                continue
            if not link.connected and now >= started + connect_s:
                raise not_connected_error(self._definition.name, connect_s)
            rests = bool(self._asked_by) and not self._untold and self._acting.at_rest
            if rests and now >= self._heard_at + REST_S:
                if self._run.work.paused():
                    return WORKER_OUTCOME_PAUSED
                self._acting.remind()
                return WORKER_OUTCOME_WAITING
            until = self._heard_at + REST_S if rests else None if link.connected else started + connect_s
            await self._until_awake(until)

    def _hear(self, request: WorkRequest) -> bool:
        """Take in a message of the worker; whether it is its result. Raises what fails the run."""
        match request.WhichOneof("message"):
            case "call":
                self._begin(request.call)
            case "cancel":
                self._give_up(request.cancel.call_id)
            case "result":
                self.structured_json = finish(self._state, request.result.output_json)
                return True
            case "failure":
                raise code_error(self._definition.name, request.failure)
            case _:
                raise WorkerProtocolBrokenError(
                    "the worker sent a message without anything in it", workflow=self._definition.name
                )
        return False

    def _begin(self, asked: WorkerCall) -> None:
        try:
            self._check_open()
            check_key(asked.key)
            call = in_one_form(self._definition, asked.call)
            if call.HasField("step"):
                standing = self._acting.report(call.step)
                self._answer_stored(CallAnswer(call_id=asked.call_id, output_json=standing))
                return
        except WorkerProtocolBrokenError:
            raise
        except RetinueError as error:
            self._answer(CallAnswer(call_id=asked.call_id, error=run_error(error)))
            return
        key = asked.key
        if not key:
            kind = key_of_kind(call)
            self._counts[kind] += 1
            key = f"{kind}#{self._counts[kind]}"
        known = self._state.calls.get(key)
        if known is None:
            self._check_count()
            known = None if self._run.work.paused() else self._acting.begin(key, call)
        elif known.call != call:
            raise NonDeterministicError(
                f"the workflow asks for something else under the key {key!r} than before: give calls that "
                "differ names of their own, and let the code do the same each time for the same input",
                key=key,
            )
        self._asked_by.setdefault(key, []).append(asked.call_id)
        if known is None:
            self._held[key] = WorkerCall(key=key, call=call)
        elif known.done:
            self._on_done(known)
        else:
            self._acting.advance(known)

    def _check_count(self) -> None:
        if len(self._state.calls) >= MAX_CALLS:
            raise MaxIterationsReachedError(
                f"the workflow made {MAX_CALLS} calls without coming to an end: see why it goes on, or let "
                "it do part of its work in a workflow that it runs",
                max_iterations=MAX_CALLS,
            )

    def _check_open(self) -> None:
        if len(self._asked_by) >= MAX_OPEN_CALLS:
            raise InvalidArgumentError(
                f"the workflow has {MAX_OPEN_CALLS} calls under way, and more are not made side by side: "
                "wait for some before the next"
            )

    def _give_up(self, call_id: int) -> None:
        for key, ids in self._asked_by.items():
            if call_id in ids:
                if len(ids) > 1:
                    ids.remove(call_id)
                elif key in self._held:
                    # It was never begun, and is nothing to the journal.
                    del self._held[key], self._asked_by[key]
                elif not self._state.calls[key].done:
                    self._acting.give_up(self._state.calls[key])
                return

    # What calls gave.

    def _on_done(self, call: CallProgress) -> None:
        if self._worker is not None:
            for call_id in self._asked_by.pop(call.key, ()):
                answer = CallAnswer(call_id=call_id)
                if call.error is not None:
                    answer.error.CopyFrom(call.error)
                else:
                    answer.output_json = call.output_json or "null"
                self._answer_stored(answer)
        self._wake()

    def _answer_stored(self, answer: CallAnswer) -> None:
        self._untold.append(answer)
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell())

    async def _tell(self) -> None:
        """Tell the worker what its calls gave, once that is stored."""
        while self._untold:
            count = len(self._untold)
            try:
                await self._run.work.journal.commit()
            except ClaimLostError as error:
                self._acting.fail_with(error)
                return
            for answer in self._untold[:count]:
                self._answer(answer)
            del self._untold[:count]
        self._wake()

    def _answer(self, answer: CallAnswer) -> None:
        if self._worker is not None:
            self._heard_at = time.monotonic()
            self._worker.link.answers.put_nowait(WorkResponse(answer=answer))

    def _tell_output(self, link: Link) -> None:
        while (written := link.take_written()) is not None:
            output = event_pb2.WorkerOutput(stream=written.stream, text=written.text)
            self._run.emit("", worker_output=output)

    # Waking up.

    def _wake(self) -> None:
        self._awake.set()

    def _on_arrival(self, arrival: "asyncio.Future[None]") -> None:
        """An answer has come, or the run is to pause or to go on."""
        if arrival.cancelled() or self._letting_go:
            return  # whoever works on the tree sees it
        self._arrival = self._run.work.arrivals.next()
        self._arrival.add_done_callback(self._on_arrival)
        if not self._run.work.paused():
            held, self._held = self._held, {}
            for key, each in held.items():
                self._acting.advance(self._acting.begin(key, each.call))
            self._acting.advance_waiting()
        self._wake()

    async def _until_awake(self, until: float | None) -> None:
        """Wait until something has happened, or a moment of the monotonic clock has come."""
        try:
            async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
                await self._awake.wait()
        except TimeoutError:
            pass
        self._awake.clear()
