"""Working on a run: from where its journal stands to its last event, however it ends."""

import asyncio

import structlog

from retinue.client.backoff import backoff_s
from retinue.engine.v1 import event_pb2
from retinue.engine.v1.run_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_FAILED,
    RUN_STATE_SUCCEEDED,
    RunResult,
    RunState,
)
from retinue.errors import (
    ClaimLostError,
    InternalError,
    RetinueError,
    RunTimeoutError,
    StoreUnavailableError,
    reason_name,
)
from retinue_engine.agent.conversation import Conversation
from retinue_engine.agent.loop import AgentLoop, Means
from retinue_engine.convert import now_us
from retinue_engine.definition import AgentDefinition
from retinue_engine.history import definition_of, replay
from retinue_engine.journal import MAX_EVENT_BYTES
from retinue_engine.outcome import run_error, run_outcome, set_seconds
from retinue_engine.store import Store
from retinue_engine.supervisor import ActiveRun

log = structlog.get_logger()

CUT_OUTPUT = "\n[cut: the last message has it whole]"


class Worker:
    """Works on agent runs."""

    def __init__(self, store: Store, means: Means) -> None:
        self._store = store
        self._means = means

    async def work(self, active: ActiveRun) -> None:
        """Work on a run and write its end. Cancelled for another reason than the run's own, write nothing."""
        row = active.row
        result = RunResult(state=RUN_STATE_SUCCEEDED)
        conversation = Conversation("", (), "")
        try:
            agent = definition_of(row)
            conversation = await self._replay(active)
            if active.cancel_reason is None:
                await self._run(active, agent, conversation)
            else:
                result.state = RUN_STATE_CANCELLED
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if active.cancel_reason is None or active.lost or task is None:
                raise
            task.uncancel()
            result.state = RUN_STATE_CANCELLED
        except ClaimLostError:
            raise
        except RetinueError as error:
            result.state = RUN_STATE_FAILED
            result.error.CopyFrom(run_error(error))
        except Exception:
            log.exception("a run failed by a bug", run_id=row.run_id)
            result.state = RUN_STATE_FAILED
            result.error.CopyFrom(
                run_error(InternalError("internal error; the engine's log has the details"))
            )
        await self._end(active, conversation, result)

    async def _replay(self, active: ActiveRun) -> Conversation:
        waits = backoff_s()
        while True:
            try:
                return await replay(self._store, active.row, active.past)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if active.cancel_reason is None or active.lost or task is None:
                    raise
                # Cancelled by a user before it began: its end is written all the same.
                task.uncancel()
            except StoreUnavailableError as error:
                log.warning("cannot read a run, trying again", run_id=active.row.run_id, error=error.message)
                await asyncio.sleep(next(waits))

    async def _run(self, active: ActiveRun, agent: AgentDefinition, conversation: Conversation) -> None:
        loop = AgentLoop(
            run_id=active.row.run_id,
            namespace=active.row.namespace,
            agent=agent,
            conversation=conversation,
            journal=active.journal,
            means=self._means,
        )
        limit_s = agent.timeout_s
        if limit_s is None:
            await _sole_error(loop)
            return
        left_s = limit_s - (now_us() - active.row.create_us) / 1_000_000
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                await _sole_error(loop)
        except TimeoutError:
            raise RunTimeoutError(
                f"the run took longer than its timeout of {limit_s:g} s: "
                "raise the agent's `timeout`, or the run's",
                timeout_s=f"{limit_s:g}",
            ) from None

    async def _end(self, active: ActiveRun, conversation: Conversation, result: RunResult) -> None:
        active.ending = True
        row = active.row
        result.output = conversation.output
        result.finish_reason = conversation.finish_reason
        result.usage.CopyFrom(conversation.usage)
        result.cost.CopyFrom(conversation.cost)
        result.turns = conversation.turns
        result.tool_calls = conversation.tool_calls
        result.retries = conversation.retries
        result.cancel_reason = active.cancel_reason or "" if result.state == RUN_STATE_CANCELLED else ""
        end_us = now_us()
        set_seconds(result.duration, (end_us - row.create_us) / 1_000_000)
        event = event_pb2.RunEvent(run_id=row.run_id, run_finished=event_pb2.RunFinished(result=result))
        over = event.ByteSize() - MAX_EVENT_BYTES
        if over > 0:
            # The message has it whole, in its own event; with the error beside it there is less room here.
            kept = len(result.output.encode()) - over - len(CUT_OUTPUT)
            result.output = result.output.encode()[:kept].decode(errors="ignore") + CUT_OUTPUT
            event.run_finished.result.CopyFrom(result)
        active.journal.finish(event, run_outcome(row, result, end_us, conversation.session_messages()))
        await active.journal.commit()
        # Only what went wrong is worth a line where runs are many.
        tell = log.info if result.state == RUN_STATE_FAILED else log.debug
        tell(
            "run ended",
            state=RunState.Name(result.state),
            reason=reason_name(result.error.reason) if result.HasField("error") else None,
            duration_ms=result.duration.ToMilliseconds(),
        )


async def _sole_error(loop: AgentLoop) -> None:
    """Run it; of the errors of calls side by side the first is raised, alone."""
    try:
        await loop.run()
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
