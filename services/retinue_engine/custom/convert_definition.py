"""What a closure from the registry says of a custom workflow."""

from collections.abc import Mapping

from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import component_pb2
from retinue.registry.v1.custom_workflow_pb2 import CustomWorkflowSpec
from retinue_engine.convert_definition import budget_of, seconds_of, server_of
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.custom.program import Program
from retinue_engine.workflow.definition import RunAction

_Known = Mapping[tuple[component_pb2.ComponentKind.ValueType, str], component_pb2.Component]


def custom_definition(
    component: component_pb2.Component, known: _Known, options: run_pb2.RunOptions
) -> CustomDefinition:
    """A custom workflow of a closure, with a run's options over its own settings."""
    spec = component.custom_workflow
    return CustomDefinition(
        name=component.name,
        version=component.version,
        steps=(),
        input_schema_json=spec.input_schema_json,
        timeout_s=seconds_of(options.timeout) or seconds_of(spec.timeout) or None,
        budget=budget_of(options.budget, spec.budget),
        session_budget=budget_of(options.session_budget, spec.session_budget),
        program=program_of(component),
        runs=_runs(spec, known),
        servers=tuple(
            server_of(known[component_pb2.COMPONENT_KIND_MCP_SERVER, name]) for name in spec.mcp_servers
        ),
    )


def program_of(component: component_pb2.Component) -> Program:
    """What is started for a custom workflow."""
    spec = component.custom_workflow
    return Program(
        workflow=component.name,
        entry_point=spec.entry_point,
        folder=spec.folder,
        command=spec.command,
        args=tuple(spec.args),
        env=dict(spec.env),
        by_api=component.source.HasField("api"),
    )


def _runs(spec: CustomWorkflowSpec, known: _Known) -> tuple[RunAction, ...]:
    named = (
        (component_pb2.COMPONENT_KIND_AGENT, spec.agents),
        (component_pb2.COMPONENT_KIND_LINEAR_WORKFLOW, spec.linear_workflows),
        (component_pb2.COMPONENT_KIND_GRAPH_WORKFLOW, spec.graph_workflows),
        (component_pb2.COMPONENT_KIND_CUSTOM_WORKFLOW, spec.custom_workflows),
    )
    found = (known[kind, name] for kind, names in named for name in names)
    return tuple(RunAction(each.kind, each.name, each.version, None) for each in found)
