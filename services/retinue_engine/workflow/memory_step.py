"""One try of a step that keeps a text, or finds texts that were kept."""

import time
from collections.abc import Mapping

from retinue.engine.v1 import event_pb2
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.convert_memory import memory_to_proto
from retinue_engine.memory import MemoryRow, check_labels, check_text, memory_id, words_of
from retinue_engine.workflow.definition import MemoryReadAction, MemoryWriteAction
from retinue_engine.workflow.result import StepResult


async def write_memory(
    run: WorkflowRun, place: str, action: MemoryWriteAction, text: str, labels: Mapping[str, str]
) -> StepResult:
    """Keep a text; its id is the step's output. Raises InvalidArgumentError, PayloadTooLargeError.

    The event that tells it stores it, and its id is that of the try's place: it is kept once, whatever
    happens to the engine.
    """
    known = run.state.written.get(run.place(place))
    if known is None:
        check_text(text)
        check_labels(labels)
        now_us = time.time_ns() // 1000
        ends_s = action.expire_after_s
        row = MemoryRow(
            namespace=run.work.row.namespace,
            memory_id=memory_id(run.run_id, place),
            text=text,
            labels=labels,
            create_us=now_us,
            expire_us=None if ends_s is None else now_us + int(ends_s * 1_000_000),
            run_id=run.run_id,
        )
        step = place.partition("/")[0].removeprefix("step:")
        written = event_pb2.MemoryWritten(step=step, memory=memory_to_proto(row))
        run.emit(place, memory_written=written)
        known = written.memory
    # The next step may look for it.
    await run.work.journal.commit()
    return StepResult(known.memory_id)


async def read_memory(
    run: WorkflowRun, action: MemoryReadAction, query: str, labels: Mapping[str, str]
) -> StepResult:
    """The texts that fit, the best first; without words in the query the newest."""
    check_labels(labels)
    found = await run.work.find_memories(words_of(query), labels, action.limit)
    return StepResult.of(
        [{"id": row.memory_id, "text": row.text, "labels": dict(row.labels)} for row in found]
    )
