"""What a closure from the registry says, as the definitions that the engine works with."""

from collections.abc import Sequence
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2, mcp_server_pb2
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.definition import (
    CONNECT_TIMEOUT_S,
    HOST_GRACE_S,
    INPUT_TIMEOUT_S,
    LLM_TIMEOUT_S,
    MAX_ITERATIONS,
    MAX_REPAIRS,
    MAX_RETRIES,
    STALL_AFTER,
    TOOL_CALL_TIMEOUT_S,
    TOOL_CONCURRENCY,
    AgentDefinition,
    Budget,
    Callee,
    LlmDefinition,
    Server,
    ToolAccess,
    ToolPolicy,
    ToolSelector,
)
from retinue_engine.llm.model import Generation
from retinue_engine.llm.pricing import Price
from retinue_engine.llm.routing import choose_transport
from retinue_engine.prompt import render_prompt

_TRANSPORTS: dict[int, Literal["auto", "direct", "litellm"]] = {
    llm_pb2.LLM_TRANSPORT_UNSPECIFIED: "auto",
    llm_pb2.LLM_TRANSPORT_AUTO: "auto",
    llm_pb2.LLM_TRANSPORT_DIRECT: "direct",
    llm_pb2.LLM_TRANSPORT_LITELLM: "litellm",
}
_STRUCTURED_OUTPUT: dict[int, Literal["auto", "native", "instruction"]] = {
    llm_pb2.LLM_STRUCTURED_OUTPUT_UNSPECIFIED: "auto",
    llm_pb2.LLM_STRUCTURED_OUTPUT_AUTO: "auto",
    llm_pb2.LLM_STRUCTURED_OUTPUT_NATIVE: "native",
    llm_pb2.LLM_STRUCTURED_OUTPUT_INSTRUCTION: "instruction",
}
_APPROVALS: dict[int, Literal["never", "always", "destructive"]] = {
    agent_pb2.TOOL_APPROVAL_UNSPECIFIED: "never",
    agent_pb2.TOOL_APPROVAL_NEVER: "never",
    agent_pb2.TOOL_APPROVAL_ALWAYS: "always",
    agent_pb2.TOOL_APPROVAL_DESTRUCTIVE: "destructive",
}
_INTERRUPTED: dict[int, Literal["auto", "repeat", "ask", "fail"]] = {
    agent_pb2.INTERRUPTED_CALL_UNSPECIFIED: "auto",
    agent_pb2.INTERRUPTED_CALL_REPEAT: "repeat",
    agent_pb2.INTERRUPTED_CALL_ASK: "ask",
    agent_pb2.INTERRUPTED_CALL_FAIL: "fail",
}

_SCOPES: dict[int, Literal["shared", "session", "run"]] = {
    mcp_server_pb2.SERVER_SCOPE_SESSION: "session",
    mcp_server_pb2.SERVER_SCOPE_RUN: "run",
}

_Level = run_pb2.RunOptions | agent_pb2.AgentSpec


def root_definition(resolved: ResolveComponentResponse, options: run_pb2.RunOptions) -> AgentDefinition:
    """The agent that a closure is about, with a run's options over its own settings."""
    spec = resolved.component.agent
    # A prompt is a template where anybody sets a variable.
    variables = {**spec.variables, **options.variables}
    return _definition(resolved, resolved.component, options, variables)


def callee_definition(
    resolved: ResolveComponentResponse, name: str, options: run_pb2.RunOptions
) -> AgentDefinition:
    """An agent of a closure that another one calls: of the run's options it takes variables that it has."""
    component = next(
        each
        for each in (resolved.component, *resolved.dependencies)
        if each.kind == component_pb2.COMPONENT_KIND_AGENT and each.name == name
    )
    own = component.agent.variables
    variables = {key: options.variables.get(key, value) for key, value in own.items()}
    return _definition(resolved, component, run_pb2.RunOptions(), variables)


def _definition(
    resolved: ResolveComponentResponse,
    component: component_pb2.Component,
    options: run_pb2.RunOptions,
    variables: dict[str, str],
) -> AgentDefinition:
    spec = component.agent
    known = {(each.kind, each.name): each for each in (resolved.component, *resolved.dependencies)}
    names = dict.fromkeys([options.llm or spec.llm, *spec.fallback_llms])
    max_context = _first_set("max_context_tokens", 0, options, spec)
    return AgentDefinition(
        name=component.name,
        system_prompt=render_prompt(spec.system_prompt, variables),
        llms=tuple(
            _llm(known[component_pb2.COMPONENT_KIND_LLM, name], options.generation, spec.generation)
            for name in names
        ),
        servers=tuple(
            server_of(known[component_pb2.COMPONENT_KIND_MCP_SERVER, name]) for name in spec.mcp_servers
        ),
        max_iterations=_first_set("max_iterations", MAX_ITERATIONS, options, spec),
        tool_concurrency=_first_set("tool_concurrency", TOOL_CONCURRENCY, options, spec),
        include_history=bool(_first_set("include_history", 1, options, spec)),
        timeout_s=seconds_of(options.timeout) or seconds_of(spec.timeout) or None,
        budget=budget_of(options.budget, spec.budget),
        session_budget=budget_of(options.session_budget, spec.session_budget),
        callees=tuple(
            _callee(known[kind, name])
            for kind, names in (
                (component_pb2.COMPONENT_KIND_AGENT, spec.agents),
                (component_pb2.COMPONENT_KIND_LINEAR_WORKFLOW, spec.linear_workflows),
                (component_pb2.COMPONENT_KIND_GRAPH_WORKFLOW, spec.graph_workflows),
                (component_pb2.COMPONENT_KIND_CUSTOM_WORKFLOW, spec.custom_workflows),
            )
            for name in names
        ),
        policies=_policies(spec.tool_policies),
        access=ToolAccess(_selectors(spec.allowed_tools), _selectors(spec.excluded_tools)),
        asks_user=spec.ask_user,
        output_schema_json=options.output_schema_json or spec.output_schema_json,
        max_repairs=_first_set("max_repairs", MAX_REPAIRS, options, spec),
        max_context_tokens=max_context or None,
        stall_after=_first_set("stall_after", STALL_AFTER, spec),
        input_timeout_s=seconds_of(options.input_timeout)
        or seconds_of(spec.input_timeout)
        or INPUT_TIMEOUT_S,
    )


def _policies(policies: Sequence[agent_pb2.ToolPolicy]) -> tuple[ToolPolicy, ...]:
    return tuple(
        ToolPolicy(each.server, each.tool, _APPROVALS[each.approval], _INTERRUPTED[each.interrupted])
        for each in policies
    )


def _selectors(selectors: Sequence[agent_pb2.ToolSelector]) -> tuple[ToolSelector, ...]:
    return tuple(ToolSelector(each.server, each.tool) for each in selectors)


def _callee(component: component_pb2.Component) -> Callee:
    spec = component.WhichOneof("spec") or "agent"
    return Callee(component.kind, component.name, component.version, getattr(component, spec).description)


def budget_of(run: agent_pb2.Budget, agent: agent_pb2.Budget) -> Budget:
    """A budget: what the run says over what the component says."""
    merged = agent_pb2.Budget()
    merged.CopyFrom(agent)
    if run.HasField("max_duration"):
        merged.ClearField("max_duration")
    merged.MergeFrom(run)
    return Budget(
        max_tokens=merged.max_tokens if merged.HasField("max_tokens") else None,
        max_cost_nano_usd=merged.max_cost_nano_usd if merged.HasField("max_cost_nano_usd") else None,
        max_tool_calls=merged.max_tool_calls if merged.HasField("max_tool_calls") else None,
        max_turns=merged.max_turns if merged.HasField("max_turns") else None,
        max_duration_s=seconds_of(merged.max_duration) if merged.HasField("max_duration") else None,
    )


def server_of(component: component_pb2.Component) -> Server:
    """An MCP server as a run uses it."""
    spec = component.mcp_server
    connect_s = seconds_of(spec.connect_timeout) or CONNECT_TIMEOUT_S
    call_s = seconds_of(spec.call_timeout) or TOOL_CALL_TIMEOUT_S
    return Server(
        component.name,
        component.version,
        # A call may wait for its turn as long as it may take.
        connect_s + 2 * call_s + HOST_GRACE_S,
        spec.allow_sampling,
        _SCOPES.get(spec.scope, "shared"),
    )


def _first_set(name: str, default: int, *levels: _Level) -> int:
    for level in levels:
        if level.HasField(name):  # type: ignore[arg-type]
            return int(getattr(level, name))
    return default


def seconds_of(duration: Duration) -> float:
    """A span in seconds; 0 where it is not set."""
    return duration.seconds + duration.nanos / 1e9


def _generation(*levels: llm_pb2.GenerationSettings) -> Generation:
    merged = llm_pb2.GenerationSettings()
    for level in reversed(levels):
        if level.stop:
            del merged.stop[:]
        merged.MergeFrom(level)

    return Generation(
        temperature=merged.temperature if merged.HasField("temperature") else None,
        top_p=merged.top_p if merged.HasField("top_p") else None,
        max_output_tokens=merged.max_output_tokens if merged.HasField("max_output_tokens") else None,
        seed=merged.seed if merged.HasField("seed") else None,
        stop=tuple(merged.stop),
    )


def _llm(component: component_pb2.Component, *over: llm_pb2.GenerationSettings) -> LlmDefinition:
    spec = component.llm
    protocol: Literal["openai_chat"] | None = (
        "openai_chat" if spec.protocol == llm_pb2.LLM_PROTOCOL_OPENAI_CHAT else None
    )
    price = spec.price
    return LlmDefinition(
        name=component.name,
        by_api=component.source.HasField("api"),
        model=spec.model,
        transport=choose_transport(_TRANSPORTS[spec.transport], protocol),
        protocol=protocol,
        base_url=spec.base_url or None,
        api_key=spec.api_key,
        headers=dict(spec.headers),
        generation=_generation(*over, spec.generation),
        timeout_s=seconds_of(spec.timeout) or LLM_TIMEOUT_S,
        max_retries=spec.max_retries if spec.HasField("max_retries") else MAX_RETRIES,
        structured_output=_STRUCTURED_OUTPUT[spec.structured_output],
        price=Price(
            price.input_nano_usd_per_million if price.HasField("input_nano_usd_per_million") else None,
            price.output_nano_usd_per_million if price.HasField("output_nano_usd_per_million") else None,
            price.cached_input_nano_usd_per_million
            if price.HasField("cached_input_nano_usd_per_million")
            else None,
        ),
    )
