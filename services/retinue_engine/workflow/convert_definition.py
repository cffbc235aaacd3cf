"""What a closure from the registry says of a workflow."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import component_pb2, workflow_pb2
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.convert_definition import budget_of, seconds_of, server_of
from retinue_engine.custom.convert_definition import custom_definition
from retinue_engine.definition import INPUT_TIMEOUT_S
from retinue_engine.workflow.definition import (
    ATTEMPTS,
    BACKOFF_S,
    BRANCHES,
    CONCURRENCY,
    MAX_BACKOFF_S,
    MEMORIES,
    PASSING,
    ROUNDS,
    Action,
    AskAction,
    EachAction,
    EdgeDefinition,
    FailAction,
    FailoverAction,
    JoinDefinition,
    LoopAction,
    MemoryReadAction,
    MemoryWriteAction,
    Retry,
    RouteDefinition,
    RouterAction,
    RunAction,
    StepDefinition,
    ToolAction,
    TransformAction,
    WorkflowDefinition,
)

_POLICIES: Mapping[int, Literal["fail", "continue", "fallback"]] = {
    workflow_pb2.STEP_ERROR_POLICY_UNSPECIFIED: "fail",
    workflow_pb2.STEP_ERROR_POLICY_FAIL: "fail",
    workflow_pb2.STEP_ERROR_POLICY_CONTINUE: "continue",
    workflow_pb2.STEP_ERROR_POLICY_FALLBACK: "fallback",
}
_BRANCH_POLICIES: Mapping[int, Literal["fail_fast", "wait_all", "continue"]] = {
    workflow_pb2.BRANCH_FAILURE_POLICY_UNSPECIFIED: "fail_fast",
    workflow_pb2.BRANCH_FAILURE_POLICY_FAIL_FAST: "fail_fast",
    workflow_pb2.BRANCH_FAILURE_POLICY_WAIT_ALL: "wait_all",
    workflow_pb2.BRANCH_FAILURE_POLICY_CONTINUE: "continue",
}
_JOIN_MODES: Mapping[int, Literal["clear", "all", "any", "quorum"]] = {
    workflow_pb2.JOIN_MODE_UNSPECIFIED: "clear",
    workflow_pb2.JOIN_MODE_ALL: "all",
    workflow_pb2.JOIN_MODE_ANY: "any",
    workflow_pb2.JOIN_MODE_QUORUM: "quorum",
}
_MERGES: Mapping[int, Literal["first", "list", "object"]] = {
    workflow_pb2.JOIN_MERGE_UNSPECIFIED: "first",
    workflow_pb2.JOIN_MERGE_FIRST: "first",
    workflow_pb2.JOIN_MERGE_LIST: "list",
    workflow_pb2.JOIN_MERGE_OBJECT: "object",
}
_CONFLICTS: Mapping[int, Literal["error", "last", "merge"]] = {
    workflow_pb2.STATE_CONFLICT_POLICY_UNSPECIFIED: "error",
    workflow_pb2.STATE_CONFLICT_POLICY_ERROR: "error",
    workflow_pb2.STATE_CONFLICT_POLICY_LAST: "last",
    workflow_pb2.STATE_CONFLICT_POLICY_MERGE: "merge",
}
_CONDITIONS: Mapping[int, Literal["success", "failure", "always"]] = {
    workflow_pb2.EDGE_CONDITION_UNSPECIFIED: "success",
    workflow_pb2.EDGE_CONDITION_SUCCESS: "success",
    workflow_pb2.EDGE_CONDITION_FAILURE: "failure",
    workflow_pb2.EDGE_CONDITION_ALWAYS: "always",
}

_Runs = (
    workflow_pb2.WorkflowStep | workflow_pb2.StepFallback | workflow_pb2.EachTarget | workflow_pb2.LoopTarget
)
_Known = Mapping[tuple[component_pb2.ComponentKind.ValueType, str], component_pb2.Component]


def workflow_definition(
    resolved: ResolveComponentResponse, component: component_pb2.Component, options: run_pb2.RunOptions
) -> WorkflowDefinition:
    """A workflow of a closure, with a run's options over its own settings."""
    known = {(each.kind, each.name): each for each in (resolved.component, *resolved.dependencies)}
    if component.HasField("graph_workflow"):
        return _graph(component, known, options)
    if component.HasField("custom_workflow"):
        return custom_definition(component, known, options)
    spec = component.linear_workflow
    return WorkflowDefinition(
        name=component.name,
        version=component.version,
        steps=tuple(_step(step, known) for step in spec.steps),
        output=spec.output,
        input_schema_json=spec.input_schema_json,
        timeout_s=seconds_of(options.timeout) or seconds_of(spec.timeout) or None,
        budget=budget_of(options.budget, spec.budget),
        session_budget=budget_of(options.session_budget, spec.session_budget),
        state_json=spec.state_json,
    )


def _graph(
    component: component_pb2.Component, known: _Known, options: run_pb2.RunOptions
) -> WorkflowDefinition:
    spec = component.graph_workflow
    edges = tuple(
        EdgeDefinition(each.source, each.target, _CONDITIONS[each.after], each.when, each.route)
        for each in spec.edges
    )
    # An edge that is taken after a failure says that the workflow goes on then.
    handled = {edge.source for edge in edges if edge.after != "success"}
    steps = [_step(node, known) for node in spec.nodes]
    if _BRANCH_POLICIES[spec.on_failure] == "continue":
        handled.update(step.name for step in steps)
    return WorkflowDefinition(
        name=component.name,
        version=component.version,
        steps=tuple(replace(step, goes_on=step.name in handled) for step in steps),
        output=spec.output,
        input_schema_json=spec.input_schema_json,
        timeout_s=seconds_of(options.timeout) or seconds_of(spec.timeout) or None,
        budget=budget_of(options.budget, spec.budget),
        session_budget=budget_of(options.session_budget, spec.session_budget),
        state_json=spec.state_json,
        edges=edges,
        on_conflict=_CONFLICTS[spec.on_conflict],
        concurrency=spec.concurrency if spec.HasField("concurrency") else CONCURRENCY,
        waits_for_all=spec.on_failure == workflow_pb2.BRANCH_FAILURE_POLICY_WAIT_ALL,
    )


def _step(step: workflow_pb2.WorkflowStep, known: _Known) -> StepDefinition:
    join = step.join
    return StepDefinition(
        name=step.name,
        action=_action(step, known),
        condition=step.condition,
        timeout_s=seconds_of(step.timeout) or None,
        retry=_retry(step.retry) if step.HasField("retry") else Retry(),
        policy=_POLICIES[step.on_error],
        fallback=_runs(step.fallback, known) if step.HasField("fallback") else None,
        output=step.output,
        join=JoinDefinition(
            _JOIN_MODES[join.mode],
            join.quorum,
            join.cancel_rest,
            seconds_of(join.timeout) or None,
            _MERGES[join.merge],
        ),
        changes=dict(step.set),
    )


def _action(step: workflow_pb2.WorkflowStep, known: _Known) -> Action:  # noqa: PLR0911 - one for each target
    match step.WhichOneof("target"):
        case "transform":
            return TransformAction(step.transform.expression, step.transform.template)
        case "ask":
            ask = step.ask
            return AskAction(ask.question, ask.answer_schema_json, seconds_of(ask.timeout) or INPUT_TIMEOUT_S)
        case "fail":
            return FailAction(step.fail.message)
        case "router":
            return _router(step.router, known)
        case "each":
            each = step.each
            return EachAction(
                items=each.items,
                action=_runs(each, known),
                concurrency=each.concurrency if each.HasField("concurrency") else BRANCHES,
                policy=_BRANCH_POLICIES[each.on_failure],
                quorum=each.quorum if each.HasField("quorum") else None,
                branch_timeout_s=seconds_of(each.branch_timeout) or None,
            )
        case "loop":
            loop = step.loop
            rounds = loop.max_rounds if loop.HasField("max_rounds") else ROUNDS
            return LoopAction(_runs(loop, known), loop.until, rounds)
        case "memory_write":
            write = step.memory_write
            return MemoryWriteAction(write.text, dict(write.labels), seconds_of(write.expire_after) or None)
        case "memory_read":
            read = step.memory_read
            limit = read.limit if read.HasField("limit") else MEMORIES
            return MemoryReadAction(read.query, dict(read.labels), limit)
        case "failover":
            choices = tuple(_runs(each, known) for each in step.failover.choices)
            return FailoverAction(choices, frozenset(step.failover.errors))
        case _:
            return _runs(step, known)


def _router(router: workflow_pb2.RouterTarget, known: _Known) -> RouterAction:
    chooser = None
    if router.agent:
        agent = known[component_pb2.COMPONENT_KIND_AGENT, router.agent]
        chooser = RunAction(agent.kind, agent.name, agent.version, router.input or None)
    routes = tuple(RouteDefinition(each.name, each.when, each.description) for each in router.routes)
    return RouterAction(routes, router.default, chooser)


def _runs(given: _Runs, known: _Known) -> RunAction | ToolAction:
    what = given.WhichOneof("target")
    if what == "tool":
        server = server_of(known[component_pb2.COMPONENT_KIND_MCP_SERVER, given.tool.server])
        return ToolAction(server, given.tool.tool, json.loads(given.tool.arguments_json or "{}"))
    kind = component_pb2.ComponentKind.Value(f"COMPONENT_KIND_{what}".upper())
    component = known[kind, getattr(given, what or "")]
    return RunAction(component.kind, component.name, component.version, given.input or None)


def _retry(retry: workflow_pb2.StepRetry) -> Retry:
    return Retry(
        attempts=retry.attempts if retry.HasField("attempts") else ATTEMPTS,
        backoff_s=seconds_of(retry.backoff) or BACKOFF_S,
        max_backoff_s=seconds_of(retry.max_backoff) or MAX_BACKOFF_S,
        errors=frozenset(retry.errors) or PASSING,
    )
