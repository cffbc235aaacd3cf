"""A linear workflow: its steps, one after the other."""

from retinue_engine.agent.work import WorkflowRun
from retinue_engine.workflow.acting import WorkOn
from retinue_engine.workflow.ends import finish, read_input
from retinue_engine.workflow.step import Step


class LinearLoop:
    """One run of a linear workflow. A run that is taken up again goes on at the step where it was."""

    def __init__(self, run: WorkflowRun, work_on: WorkOn) -> None:
        self._run = run
        self._work_on = work_on
        self.structured_json = ""
        """The workflow's output as JSON, where it is not just text."""

    async def run(self) -> bool:
        """Go on to the last step; whether it is done.

        False where a step waits for somebody outside or the run is to pause. Raises the error of a step that
        fails the workflow.
        """
        run, state = self._run, self._run.state
        given = read_input(run.definition, state.message)
        for definition in run.definition.steps:
            known = state.steps.get(definition.name)
            if known and known.done:
                continue
            before = state.last_output if state.any_output else given
            step = Step(run, definition, given, before, self._work_on)
            if run.work.paused() or not await step.advance():
                return False
        self.structured_json = finish(run, given, state.last_output if state.any_output else given)
        return True
