"""How a run ended: the result that its last event and its row hold."""

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import run_pb2
from retinue.errors import RetinueError
from retinue_engine.store import RunOutcome, RunRow

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


def run_outcome(row: RunRow, result: run_pb2.RunResult, end_us: int, messages: Sequence[str]) -> RunOutcome:
    """What follows from a run's last event."""
    return RunOutcome(
        namespace=row.namespace,
        run_id=row.run_id,
        session_id=row.session_id,
        state=result.state,
        end_us=end_us,
        result=result.SerializeToString(),
        messages=messages,
    )
