"""A custom workflow's run that goes on from another: what that one's calls gave is not asked again."""

from retinue.engine.v1 import event_pb2
from retinue_engine.agent.tree import Standing
from retinue_engine.agent.work import Work
from retinue_engine.custom.code_steps import CodeStep
from retinue_engine.custom.progress import CustomProgress, place_of

_AGAIN = frozenset(("emit", "write_state", "read_state"))
"""These belong to the run's own story, and to its own state."""


def restore_calls(work: Work, root: CustomProgress, origin: Standing) -> None:
    """Begin a run with the calls that the run had done from which it goes on."""
    if not isinstance(origin, CustomProgress):
        raise TypeError(f"{work.row.run_id} goes on from a run of another kind")
    for name, step in origin.code_steps.by_name.items():
        if root.code_steps.step(name).state == "open":
            _restore_step(work, name, step)
    for call in origin.calls.values():
        known = root.calls.get(call.key)
        if call.output_json is None or call.call.WhichOneof("call") in _AGAIN or (known and known.done):
            continue
        place, run_id = place_of(call.key), work.row.run_id
        if known is None:
            work.emit(run_id, place, call_started=event_pb2.CallStarted(key=call.key, call=call.call))
        completed = event_pb2.CallCompleted(key=call.key, output_json=call.output_json, restored=True)
        work.emit(run_id, place, call_completed=completed)


def _restore_step(work: Work, name: str, step: CodeStep) -> None:
    run_id, path = work.row.run_id, f"step:{name}"
    if step.state == "skipped":
        skipped = event_pb2.StepSkipped(step=name, reason="it was left out before")
        work.emit(run_id, path, step_skipped=skipped)
    elif step.state == "completed":
        for value_name, value_json in step.values.items():
            changed = event_pb2.StateChanged(name=value_name, value_json=value_json, step=name)
            work.emit(run_id, path, state_changed=changed)
        completed = event_pb2.StepCompleted(
            step=name, output_json=step.output_json, attempts=step.started, restored=True
        )
        work.emit(run_id, path, step_completed=completed)
