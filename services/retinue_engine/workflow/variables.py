"""The variables that templates and expressions of a workflow see."""

from typing import Any

from retinue_engine.agent.work import WorkflowRun


def variables(run: WorkflowRun, given: Any, shared: dict[str, Any] | None = None) -> dict[str, Any]:
    """By name; `given` is the workflow's input, `shared` its state where that is not the one of now."""
    return {
        "input": given,
        "steps": run.state.values,
        "state": run.state.shared if shared is None else shared,
        "run": {"id": run.run_id, "depth": run.depth, "workflow": run.definition.name},
        "session": {"id": run.work.row.session_id},
    }
