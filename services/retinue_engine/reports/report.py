"""A run's report, folded from its tree's journal event by event."""

import asyncio
from collections.abc import Iterable

from retinue.common.v1 import error_pb2
from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.engine.v1.report_pb2 import RunReport, StepReport
from retinue.engine.v1.run_pb2 import RUN_STATE_FAILED, RUN_STATE_QUEUED, RUN_STATE_RUNNING
from retinue_engine.outcome import set_seconds
from retinue_engine.reports.findings import Asking, Call, Findings
from retinue_engine.reports.sums import Sums
from retinue_engine.stores.rows import FINAL_STATES, RunRow
from retinue_engine.stores.store import Store
from retinue_engine.story.journal import MAX_RECORD_BYTES

_LLM_FAILED = "ERROR_REASON_LLM_"

_OF_TREE = frozenset({"run_started", "child_run_started", "run_claimed", "run_suspended"})
"""Events that count wherever in the tree the run is; all others only where they are its own or below it."""

_NOT_BEGUN = frozenset({"run_started", "conversation_restored"})
"""After these alone a run has not begun: who claims it then takes nothing over."""


class ReportFold:
    """Folds a tree's journal into the report of one of its runs, the runs inside that one included."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._state: run_pb2.RunState.ValueType = RUN_STATE_QUEUED
        self._begin_us: int | None = None
        self._end_us: int | None = None
        self._suspended_us = 0
        self._suspended_from_us: int | None = None
        self._held = False
        """Whether an engine works on the tree, as far as the journal tells."""
        self._agents: dict[str, str] = {}
        """The runs that belong to the report, each with its agent's name."""
        self._asking: dict[str, Asking] = {}
        """The last turn of each run that has not ended."""
        self._calls: dict[tuple[str, str], Call] = {}
        """The tool calls that have not ended, by run and id."""
        self._sums = Sums()
        self._findings = Findings()

    def add(self, event: event_pb2.RunEvent) -> None:
        """Take in the next event of the tree's journal."""
        which = event.WhichOneof("event")
        if which in _OF_TREE or event.run_id in self._agents:
            take = getattr(self, f"_{which}", None)
            if take is not None:
                take(event)
        self._held = which != "run_suspended" and (self._held or which not in _NOT_BEGUN)

    @property
    def _open(self) -> bool:
        return self._begin_us is not None and self._end_us is None

    def _run_started(self, event: event_pb2.RunEvent) -> None:
        if event.run_id == self._run_id:
            self._begin_us = event.time.ToMicroseconds()
            self._enter(event, event.run_started.target.name)

    def _child_run_started(self, event: event_pb2.RunEvent) -> None:
        started = event.child_run_started
        if event.run_id == self._run_id:
            self._begin_us = event.time.ToMicroseconds()
            self._state = RUN_STATE_RUNNING
            self._enter(event, started.target.name)
        elif started.parent_run_id in self._agents:
            self._call(started.parent_run_id, started.call_id).child = event.run_id
            self._enter(event, started.target.name)

    def _enter(self, event: event_pb2.RunEvent, agent: str) -> None:
        self._agents[event.run_id] = agent
        self._sums.enter(agent, child=event.run_id != self._run_id)

    def _run_claimed(self, event: event_pb2.RunEvent) -> None:
        if self._suspended_from_us is not None:
            self._suspended_us += max(0, event.time.ToMicroseconds() - self._suspended_from_us)
            self._suspended_from_us = None
        if self._open:
            self._state = RUN_STATE_RUNNING
        if not self._held:
            return
        if event.run_id == self._run_id:
            self._findings.taken_over(event)
        for call in self._calls.values():
            call.interrupted |= call.started

    def _run_suspended(self, event: event_pb2.RunEvent) -> None:
        if self._open:
            self._suspended_from_us = event.time.ToMicroseconds()
            self._state = event.run_suspended.state

    def _run_finished(self, event: event_pb2.RunEvent) -> None:
        self._ended(event, event.run_finished.result)

    def _child_run_finished(self, event: event_pb2.RunEvent) -> None:
        result = event.child_run_finished.result
        self._ended(event, result)
        if event.run_id == self._run_id or result.state != RUN_STATE_FAILED:
            return
        self._findings.child_failed(event, self._agents[event.run_id], result)
        for call in self._calls.values():
            call.told |= call.child == event.run_id

    def _ended(self, event: event_pb2.RunEvent, result: run_pb2.RunResult) -> None:
        asking = self._asking.pop(event.run_id, None)
        reason = error_pb2.ErrorReason.Name(result.error.reason)
        if asking and not asking.answered and reason.startswith(_LLM_FAILED):
            # The last try: no event but this one tells that it failed.
            self._sums.model_failed(asking, again=False)
        if event.run_id == self._run_id:
            self._end_us = event.time.ToMicroseconds()
            self._state = result.state

    def _turn_started(self, event: event_pb2.RunEvent) -> None:
        turn = event.turn_started
        if event.run_id == self._run_id:
            self._state = RUN_STATE_RUNNING
        before = self._asking.get(event.run_id)
        first_llm = before.first_llm if before and before.path == event.path else turn.llm
        self._asking[event.run_id] = Asking(event.path, first_llm, turn.llm, turn.model)
        self._step(event)

    def _asked(self, event: event_pb2.RunEvent) -> Asking:
        return self._asking.setdefault(event.run_id, Asking(event.path, "", "", ""))

    def _step(self, event: event_pb2.RunEvent) -> StepReport:
        return self._sums.step(event, self._asked(event).path, self._agents[event.run_id])

    def _message_discarded(self, event: event_pb2.RunEvent) -> None:
        asking = self._asked(event)
        self._step(event)
        if event.message_discarded.HasField("error"):
            self._sums.model_failed(asking, again=True)
        self._findings.discarded(event, asking.llm)

    def _message_completed(self, event: event_pb2.RunEvent) -> None:
        message, asking = event.message_completed, self._asked(event)
        asking.answered = True
        self._sums.answered(message, asking, self._step(event))
        for requested in message.tool_calls:
            self._calls[event.run_id, requested.call_id] = Call(tool=requested.name)
        self._findings.answered(event, asking)

    def _sampling_completed(self, event: event_pb2.RunEvent) -> None:
        self._sums.sampled(event.sampling_completed, self._step(event))

    def _call(self, run_id: str, call_id: str) -> Call:
        return self._calls.setdefault((run_id, call_id), Call(tool=call_id))

    def _input_requested(self, event: event_pb2.RunEvent) -> None:
        request = event.input_requested.request
        if request.HasField("approval"):
            call = self._call(event.run_id, request.call_id)
            call.server, call.tool = request.approval.server, request.approval.tool

    def _tool_call_started(self, event: event_pb2.RunEvent) -> None:
        started = event.tool_call_started
        call = self._call(event.run_id, started.call_id)
        call.server, call.tool = started.server, started.tool
        if call.started:
            self._findings.repeated(event, call)
            call.interrupted = False
        call.started = True

    def _tool_call_completed(self, event: event_pb2.RunEvent) -> None:
        completed = event.tool_call_completed
        call = self._call(event.run_id, completed.call_id)
        del self._calls[event.run_id, completed.call_id]
        self._sums.call_ended(completed, call, self._step(event))
        self._findings.call_ended(event, call)

    def _context_trimmed(self, event: event_pb2.RunEvent) -> None:
        self._findings.trimmed(event)

    def _stall_noticed(self, event: event_pb2.RunEvent) -> None:
        self._findings.stalled(event)

    def _output_rejected(self, event: event_pb2.RunEvent) -> None:
        self._findings.rejected(event)

    def report(self, now_us: int) -> RunReport:
        """The report as of the events so far; of a run that has not ended, up to now."""
        totals = self._sums.totals()
        if self._begin_us is not None:
            end_us = now_us if self._end_us is None else self._end_us
            set_seconds(totals.duration, (end_us - self._begin_us) / 1e6)
        waiting_us = 0 if self._suspended_from_us is None else max(0, now_us - self._suspended_from_us)
        set_seconds(totals.suspended, (self._suspended_us + waiting_us) / 1e6)
        return RunReport(
            run_id=self._run_id,
            state=self._state,
            totals=totals,
            agents=self._sums.agents(),
            models=self._sums.models(),
            tools=self._sums.tools(),
            steps=self._sums.steps(),
            findings=self._findings.found(),
        )


def make_report(events: Iterable[event_pb2.RunEvent], run_id: str, now_us: int) -> RunReport:
    """The report of a run, from all events of its tree so far."""
    fold = ReportFold(run_id)
    for event in events:
        fold.add(event)
    return fold.report(now_us)


async def report_of(store: Store, row: RunRow, now_us: int) -> RunReport:
    """The report of a run, a root or a child, from its tree's journal in the store."""
    fold = ReportFold(row.run_id)
    after = 0
    while records := await store.read_journal(row.root_run_id, after, MAX_RECORD_BYTES):
        for record in records:
            for event in service_pb2.StreamRunResponse.FromString(record.data).events:
                fold.add(event)
            # A store may answer without a pause: a long journal must not keep everybody else waiting.
            await asyncio.sleep(0)
        after = records[-1].last_sequence
    report = fold.report(now_us)
    if report.state == RUN_STATE_QUEUED and row.state not in FINAL_STATES:
        # A run that has begun and done nothing yet looks the same in its journal as one that waits.
        report.state = run_pb2.RunState.ValueType(row.state)
    return report
