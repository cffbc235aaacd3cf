"""What a workflow begins with and what it ends with."""

import json
from typing import Any

from retinue.errors import InvalidArgumentError
from retinue_engine.agent.output import OutputSchema
from retinue_engine.agent.work import WorkflowRun
from retinue_engine.workflow.definition import WorkflowDefinition
from retinue_engine.workflow.values import as_json, as_text, evaluate
from retinue_engine.workflow.variables import variables


def read_input(definition: WorkflowDefinition, message: str) -> Any:
    """The workflow's input. Raises InvalidArgumentError where it does not fit the schema."""
    if not definition.input_schema_json:
        return message
    checked = OutputSchema(definition.input_schema_json, "input_schema").check(message)
    if not checked.structured_json:
        raise InvalidArgumentError(
            f"the input of the workflow {definition.name} does not fit its input_schema: "
            f"{checked.complaint.replace('Your answer', 'The input')}"
        )
    return json.loads(checked.structured_json)


def finish(run: WorkflowRun, given: Any, last: Any) -> str:
    """Set a run's output; return it as JSON where it is not just text. Raises ExpressionFailedError."""
    state, source = run.state, run.definition.output
    output = evaluate(source, variables(run, given), "", "output") if source else last
    state.output = as_text(output)
    state.succeeded = True
    return "" if isinstance(output, str) else as_json(output, "output")
