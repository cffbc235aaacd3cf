"""How a run ended: the result that its last event and its row hold."""

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import run_pb2
from retinue.engine.v1.run_pb2 import StopReason
from retinue.errors import (
    BudgetExceededError,
    MaxIterationsReachedError,
    OutputInvalidError,
    RetinueError,
    RunExpiredError,
    RunStalledError,
    RunTimeoutError,
)
from retinue_engine.agent.tree import Standing
from retinue_engine.workflow.progress import Progress
from retinue_engine.workflow.results import step_results

MAX_MESSAGE = 16 * 1024
"""Most characters of an error's message or fact in a result."""


def set_seconds(duration: Duration, seconds: float) -> None:
    """Set a Duration; never below zero."""
    nanos = max(0, int(seconds * 1_000_000_000))
    duration.seconds, duration.nanos = divmod(nanos, 1_000_000_000)


def run_error(error: RetinueError) -> run_pb2.RunError:
    """The error as it stands in a result or event."""
    return run_pb2.RunError(
        reason=error.reason,
        message=str(error)[:MAX_MESSAGE],
        metadata={name: value[:MAX_MESSAGE] for name, value in error.facts.items()},
    )


_STOPS: dict[type[RetinueError], StopReason.ValueType] = {
    MaxIterationsReachedError: run_pb2.STOP_REASON_MAX_ITERATIONS,
    BudgetExceededError: run_pb2.STOP_REASON_BUDGET,
    RunTimeoutError: run_pb2.STOP_REASON_TIMEOUT,
    RunExpiredError: run_pb2.STOP_REASON_TIMEOUT,
    RunStalledError: run_pb2.STOP_REASON_STALLED,
    OutputInvalidError: run_pb2.STOP_REASON_OUTPUT_INVALID,
}


def succeeded() -> run_pb2.RunResult:
    """The beginning of the result of a run whose model gave its last word."""
    return run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED, stop_reason=run_pb2.STOP_REASON_COMPLETED)


def failed(error: RetinueError) -> run_pb2.RunResult:
    """The beginning of the result of a run that an error ended."""
    stop = _STOPS.get(type(error), run_pb2.STOP_REASON_ERROR)
    return run_pb2.RunResult(state=run_pb2.RUN_STATE_FAILED, error=run_error(error), stop_reason=stop)


def cancelled(reason: str) -> run_pb2.RunResult:
    """The beginning of the result of a run that somebody cancelled."""
    return run_pb2.RunResult(
        state=run_pb2.RUN_STATE_CANCELLED,
        cancel_reason=reason,
        stop_reason=run_pb2.STOP_REASON_CANCELLED,
    )


def fill_result(result: run_pb2.RunResult, state: Standing, duration_us: int) -> None:
    """Set what a run said and used."""
    spent = state.spent
    result.output = state.output
    result.finish_reason = state.finish_reason
    result.usage.CopyFrom(spent.usage)
    result.cost.CopyFrom(spent.cost)
    result.turns = spent.turns
    result.tool_calls = spent.tool_calls
    result.retries = spent.retries
    result.repairs = state.repairs
    set_seconds(result.duration, duration_us / 1_000_000)
    if isinstance(state, Progress):
        result.steps.extend(step_results(state))
