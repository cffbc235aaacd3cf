"""What a step names without its kind: the registry stores the kind that it has when it is written."""

from pathlib import Path

import pytest

from retinue.errors import ComponentInvalidError
from retinue.registry.v1 import component_pb2, workflow_pb2
from tests.rpc.registry.serving import agent, llm, serving


def flow(name: str, run: str) -> component_pb2.Component:
    step = workflow_pb2.WorkflowStep(name="s", run=run)
    return component_pb2.Component(name=name, linear_workflow=workflow_pb2.LinearWorkflowSpec(steps=[step]))


async def test_a_name_is_stored_with_its_kind_and_keeps_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        await components.apply([flow("report", "writer"), agent("writer"), llm("fast")])
        stored = [each async for each in components.list(component_pb2.COMPONENT_KIND_LINEAR_WORKFLOW)]
        assert stored[0].linear_workflow.steps[0].WhichOneof("target") == "agent"
        await components.apply([flow("writer", "report")])
        again = [each async for each in components.list(component_pb2.COMPONENT_KIND_LINEAR_WORKFLOW)]
        assert again[0] == stored[0]
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([flow("other", "writer")])
        (violation,) = caught.value.violations
        assert violation.field == "components[0].linear_workflow.steps[0].run"
        assert "could be agent/writer and linear_workflow/writer" in violation.description


async def test_a_name_that_nothing_has_is_refused_along_with_all_else(tmp_path: Path) -> None:
    async with serving(tmp_path) as components:
        with pytest.raises(ComponentInvalidError) as caught:
            await components.apply([flow("report", "writer"), agent("wirter", "slow")])
        assert [each.field for each in caught.value.violations] == [
            "components[0].linear_workflow.steps[0].run",
            "components[1].agent.llm",
        ]
        assert "did you mean wirter?" in caught.value.violations[0].description
