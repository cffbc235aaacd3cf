"""The calls of a custom workflow while an engine works on it: made side by side, once each, and recorded."""

import asyncio
import time
from collections.abc import Callable

from retinue.engine.v1 import event_pb2, input_pb2
from retinue.engine.v1.call_pb2 import CodeStepReport, WorkflowCall
from retinue.errors import ClaimLostError, RetinueError, StepTimeoutError, WorkflowCallCancelledError
from retinue_engine.agent.spent import add_cost, add_usage
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.custom.calls import action_of
from retinue_engine.custom.code_steps import event_of, is_news
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.custom.progress import CallProgress, CustomProgress, place_of
from retinue_engine.outcome import run_error, set_seconds
from retinue_engine.tools import CallerScope
from retinue_engine.workflow.acting import Acting, WorkOn
from retinue_engine.workflow.values import as_json

CALLS_AT_ONCE = 64
"""Runs and tool calls of one run at work at a time; the rest waits for its turn."""
LONG_SLEEP_S = 5.0
"""A sleep that is longer holds no worker."""


Sums = event_pb2.CallCompleted | event_pb2.CallFailed | event_pb2.StepCompleted | event_pb2.StepFailed


class CallActing:
    """Makes calls, each in a task of its own, and writes how they ended."""

    def __init__(
        self,
        run: WorkflowRun,
        definition: CustomDefinition,
        state: CustomProgress,
        work_on: WorkOn,
        on_done: Callable[[CallProgress], None],
        wake: Callable[[], None],
    ) -> None:
        self._run = run
        self._definition = definition
        self._state = state
        self._work_on = work_on
        self._on_done = on_done
        self._wake = wake
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waiting: set[str] = set()
        """Calls that wait for somebody outside."""
        self._sleeping: set[str] = set()
        """Calls that wait for a time that is far off."""
        self._given_up: set[str] = set()
        self._places = asyncio.Semaphore(CALLS_AT_ONCE)
        self._failure: Exception | None = None

    @property
    def at_rest(self) -> bool:
        """Whether no call can go on before something comes from outside."""
        return len(self._tasks) == len(self._sleeping)

    def raise_failure(self) -> None:
        """Raise what no call may survive."""
        if self._failure is not None:
            raise self._failure

    def fail_with(self, error: Exception) -> None:
        """Note what no call may survive."""
        self._failure = self._failure or error
        self._wake()

    def begin(self, key: str, call: WorkflowCall) -> CallProgress:
        """Write that a call is made; one that is done at once is done then."""
        which = call.WhichOneof("call")
        if which == "emit":
            told = event_pb2.CustomEvent(key=key, name=call.emit.name, data_json=call.emit.data_json)
            self._run.emit(place_of(key), custom_event=told)
        elif which == "write_state":
            write = call.write_state
            changed = event_pb2.StateChanged(key=key, name=write.name, value_json=write.value_json)
            self._run.emit(place_of(key), state_changed=changed)
        else:
            self._run.emit(place_of(key), call_started=event_pb2.CallStarted(key=key, call=call))
            if which == "read_state":
                value_json = self._state.variables.get(call.read_state.name, "null")
                self._complete(self._state.calls[key], value_json)
        return self._state.calls[key]

    def advance(self, call: CallProgress) -> None:
        """Take a call as far as it can go now."""
        if call.done:
            self._on_done(call)
        elif call.key not in self._tasks:
            self._waiting.discard(call.key)
            task = self._tasks[call.key] = asyncio.create_task(self._advance(call))
            task.add_done_callback(lambda _: self._ended(call.key))

    def advance_waiting(self) -> None:
        """An answer has come: it may be for any that waits."""
        for key in list(self._waiting):
            self.advance(self._state.calls[key])

    def _ended(self, key: str) -> None:
        self._tasks.pop(key, None)
        self._sleeping.discard(key)
        self._wake()

    async def _advance(self, call: CallProgress) -> None:
        try:
            output_json = await self._within_its_time(call)
        except asyncio.CancelledError:
            if call.key not in self._given_up:
                raise
            self._write_given_up(call)
        except ClaimLostError as error:
            self.fail_with(error)
        except RetinueError as error:
            self._fail(call, error)
        except Exception as error:  # noqa: BLE001 - a bug ends the run, and not this task alone
            self.fail_with(error)
        else:
            if output_json is None:
                self._waiting.add(call.key)
            else:
                self._complete(call, output_json)

    async def _within_its_time(self, call: CallProgress) -> str | None:
        """What a call gives, as JSON; None where it waits. Raises why it fails."""
        due_us = call.due_us
        if call.call.HasField("sleep"):
            left_s = _left_s(due_us or 0)
            if left_s > LONG_SLEEP_S:
                self._sleeping.add(call.key)
                self._wake()
            await asyncio.sleep(left_s)
            return "null"
        if due_us is None:
            return await self._act(call)
        try:
            async with asyncio.timeout(_left_s(due_us)) as limit:
                output_json = await self._act(call)
                # Where its time is over it ends here: what waits gives it no other chance.
                await asyncio.sleep(0)
                return output_json
        except TimeoutError:
            if not limit.expired():
                raise
            limit_s = call.call.timeout.ToMicroseconds() / 1_000_000
            self._abandon(call, "the time limit of its call is over")
            raise StepTimeoutError(
                f"the call {call.key} took longer than its time limit of {limit_s:g} s",
                step=call.key,
                timeout_s=f"{limit_s:g}",
            ) from None

    async def _act(self, call: CallProgress) -> str | None:
        if call.call.HasField("list_tools"):
            return await self._list_tools()
        acting = Acting(self._run, call.key, self._work_on)
        action, asked = action_of(self._definition, call.call)
        async with self._places:
            result = await acting.act(action, place_of(call.key), {}, asked)
        return None if result is None else as_json(result.value, call.key)

    async def _list_tools(self) -> str:
        work = self._run.work
        scope = CallerScope(work.row.session_id, work.row.run_id)
        listed = await work.means.toolbox.list_tools(
            work.row.namespace, self._definition.servers, scope=scope
        )
        return as_json(sorted(f"{each.server.name}.{each.name}" for each in listed.by_name.values()), "tools")

    def report(self, report: CodeStepReport) -> str:
        """Write where a step of the code stands, unless it is known; where it stands now, as JSON."""
        step = self._state.code_steps.step(report.step)
        if is_news(step, report):
            what = event_of(report)
            path = f"step:{report.step}"
            for name, value_json in sorted(report.values_json.items()):
                changed = event_pb2.StateChanged(name=name, value_json=value_json, step=report.step)
                self._run.emit(path, state_changed=changed)
            for event in what.values():
                if isinstance(event, event_pb2.StepCompleted | event_pb2.StepFailed):
                    self._add_step_sums(event, step.begun_us)
            self._run.emit(path, **what)
        return step.told()

    def _add_step_sums(self, event: event_pb2.StepCompleted | event_pb2.StepFailed, begun_us: int) -> None:
        """What a step took: the runs of its calls hold what those inside them used."""
        for key in self._state.calls:
            if key.startswith(f"{event.step}/"):
                self._add_child(key, event)
        if begun_us:
            set_seconds(event.duration, (time.time_ns() // 1000 - begun_us) / 1_000_000)

    def give_up(self, call: CallProgress) -> None:
        """The code wants a call no more."""
        self._given_up.add(call.key)
        task = self._tasks.get(call.key)
        if task is not None:
            task.cancel()
        else:
            self._write_given_up(call)

    def _write_given_up(self, call: CallProgress) -> None:
        self._abandon(call, "the workflow's code gave it up")
        error = WorkflowCallCancelledError(f"the workflow's code gave the call {call.key} up", key=call.key)
        self._fail(call, error)

    def _abandon(self, call: CallProgress, why: str) -> None:
        place = place_of(call.key)
        Acting(self._run, call.key, self._work_on).abandon(place, why)
        asked = self._state.asked.get(place)
        if asked is not None and asked.answer is None:
            expired = input_pb2.InputAnswer(expired=input_pb2.Expiry())
            received = event_pb2.InputReceived(input_id=asked.request.input_id, answer=expired)
            self._run.emit(place, input_received=received)

    def _complete(self, call: CallProgress, output_json: str) -> None:
        completed = event_pb2.CallCompleted(key=call.key, output_json=output_json)
        self._add_sums(call, completed)
        self._run.emit(place_of(call.key), call_completed=completed)
        self._on_done(call)

    def _fail(self, call: CallProgress, error: RetinueError) -> None:
        self._waiting.discard(call.key)
        failed = event_pb2.CallFailed(key=call.key, error=run_error(error))
        self._add_sums(call, failed)
        self._run.emit(place_of(call.key), call_failed=failed)
        self._on_done(call)

    def _add_sums(self, call: CallProgress, event: event_pb2.CallCompleted | event_pb2.CallFailed) -> None:
        self._add_child(call.key, event)
        set_seconds(event.duration, (time.time_ns() // 1000 - call.begun_us) / 1_000_000)

    def _add_child(self, key: str, event: Sums) -> None:
        run = self._run
        child = run.work.tree.child_of_call(run.run_id, run.place(place_of(key)))
        if child is not None:
            add_usage(event.usage, child.state.spent.usage)
            add_cost(event.cost, child.state.spent.cost)

    def remind(self) -> None:
        """The run's task ends here: where its tree goes on, it is told when a call goes on by itself."""
        for due_us in self._state.dues_us():
            self._run.work.arrivals.tell_later(_left_s(due_us))

    async def cancel(self) -> None:
        """End the tasks; what they were at goes on when the run is taken up again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _left_s(due_us: int) -> float:
    return max(0.0, due_us / 1_000_000 - time.time())
