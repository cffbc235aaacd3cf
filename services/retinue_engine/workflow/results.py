"""What came of a workflow's steps, as its result tells: within bounds, whatever they gave."""

import json
from collections.abc import Mapping

from retinue.engine.v1 import run_pb2
from retinue_engine.workflow.progress import Progress, State, StepProgress

MAX_STEPS = 1000
MAX_TEXT_BYTES = 64 * 1024
"""Of all outputs and reasons together."""
MAX_REASON = 1024
"""Characters of one reason."""

_STATES: Mapping[State, run_pb2.StepState.ValueType] = {
    "open": run_pb2.STEP_STATE_OPEN,
    "waiting": run_pb2.STEP_STATE_OPEN,
    "completed": run_pb2.STEP_STATE_COMPLETED,
    "skipped": run_pb2.STEP_STATE_SKIPPED,
    "failed": run_pb2.STEP_STATE_FAILED,
}


def step_results(progress: Progress) -> list[run_pb2.StepResult]:
    """The steps that have begun or were left out, in that order."""
    left = MAX_TEXT_BYTES
    found = []
    for step in list(progress.steps.values())[:MAX_STEPS]:
        result = _result(step, left)
        left -= len(result.output_json.encode()) + len(result.reason.encode())
        found.append(result)
    return found


def _result(step: StepProgress, left: int) -> run_pb2.StepResult:
    reason = (step.error or step.reason)[:MAX_REASON].encode()[: max(left, 0)].decode(errors="ignore")
    result = run_pb2.StepResult(
        step=step.name,
        state=_STATES[step.state],
        reason=reason,
        duration=step.duration,
        usage=step.usage,
        cost=step.cost,
        attempts=step.attempt,
    )
    if step.state == "completed":
        output = json.dumps(step.output, ensure_ascii=False)
        if len(output.encode()) <= left:
            result.output_json = output
        else:
            result.output_omitted = True
    return result
