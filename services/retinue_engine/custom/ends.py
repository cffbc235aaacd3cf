"""How a custom workflow's run ends: its output, or why there is none."""

from retinue.engine.v1.worker_pb2 import WorkerFailure
from retinue.errors import (
    RetinueError,
    WorkerExitedError,
    WorkerNotConnectedError,
    WorkerProtocolBrokenError,
    WorkflowCodeFailedError,
    WorkflowCodeNotLoadedError,
    error_from_facts,
)
from retinue_engine.agent.json_schema import parse_json
from retinue_engine.custom.progress import CustomProgress
from retinue_engine.workers.link import Link
from retinue_engine.workflow.values import as_json, as_text

MAX_TRACEBACK = 8 * 1024
"""Characters of a traceback in a result, the last ones."""
MAX_SAID = 4 * 1024
"""Characters of what was raised."""


def finish(state: CustomProgress, output_json: str) -> str:
    """Set a run's output; return it as JSON where it is not just text. Raises WorkerProtocolBrokenError."""
    try:
        output = parse_json(output_json)
    except ValueError as error:
        raise WorkerProtocolBrokenError(f"the worker's result must be JSON: {error}") from None
    structured_json = as_json(output, "output")
    state.output = as_text(output)
    state.succeeded = True
    return "" if isinstance(output, str) else structured_json


def code_error(workflow: str, failure: WorkerFailure) -> RetinueError:
    """Why the code failed."""
    if failure.HasField("error"):
        error = failure.error
        return error_from_facts(error.reason, error.message, error.metadata)
    said = f"{failure.type}: {failure.message[:MAX_SAID]}" if failure.message else failure.type
    kind: type[RetinueError] = WorkflowCodeFailedError
    what = "failed"
    if failure.not_loaded:
        kind, what = WorkflowCodeNotLoadedError, "cannot be loaded"
    return kind(
        f"the code of the workflow {workflow} {what}: {said}",
        workflow=workflow,
        type=failure.type,
        traceback=failure.traceback[-MAX_TRACEBACK:],
    )


def exit_error(workflow: str, link: Link) -> WorkerExitedError:
    """That the process, or its stream, ended before the code did."""
    ending = link.ending or "broke off its stream"
    hint = ": it may have used more memory than there is" if "SIGKILL" in ending else ""
    return WorkerExitedError(
        f"the process of the workflow {workflow} {ending} before its code came to its end{hint}; what it "
        "wrote stands in the run's events",
        workflow=workflow,
        ending=ending,
    )


def not_connected_error(workflow: str, timeout_s: float) -> WorkerNotConnectedError:
    """That the process does not call."""
    return WorkerNotConnectedError(
        f"the process of the workflow {workflow} did not connect within {timeout_s:g} s: see what it wrote "
        "in the run's events, or raise RETINUE_WORKER_CONNECT_S",
        workflow=workflow,
        timeout_s=f"{timeout_s:g}",
    )
