"""Between the protos of other services and what the engine's own code works with."""

import time
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1 import event_pb2, run_pb2, session_pb2
from retinue.engine.v1.service_pb2 import RunRequest
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_engine.definition import (
    CONNECT_TIMEOUT_S,
    HOST_GRACE_S,
    LLM_TIMEOUT_S,
    MAX_ITERATIONS,
    MAX_RETRIES,
    TOOL_CALL_TIMEOUT_S,
    TOOL_CONCURRENCY,
    AgentDefinition,
    Budget,
    LlmDefinition,
    Server,
)
from retinue_engine.llm.model import Generation
from retinue_engine.llm.pricing import Price
from retinue_engine.llm.routing import choose_transport
from retinue_engine.store import MessageRow, RunRow, SessionRow

_TRANSPORTS: dict[int, Literal["auto", "direct", "litellm"]] = {
    llm_pb2.LLM_TRANSPORT_UNSPECIFIED: "auto",
    llm_pb2.LLM_TRANSPORT_AUTO: "auto",
    llm_pb2.LLM_TRANSPORT_DIRECT: "direct",
    llm_pb2.LLM_TRANSPORT_LITELLM: "litellm",
}


def agent_definition(resolved: ResolveComponentResponse, options: run_pb2.RunOptions) -> AgentDefinition:
    """The agent that a closure describes, with a run's options over its own settings."""
    spec = resolved.component.agent
    dependencies = {(each.kind, each.name): each for each in resolved.dependencies}
    names = dict.fromkeys([options.llm or spec.llm, *spec.fallback_llms])
    llms = tuple(
        _llm_definition(
            name,
            dependencies[component_pb2.COMPONENT_KIND_LLM, name].llm,
            options.generation,
            spec.generation,
        )
        for name in names
    )
    return AgentDefinition(
        name=resolved.component.name,
        system_prompt=spec.system_prompt,
        llms=llms,
        servers=tuple(
            _server(dependencies[component_pb2.COMPONENT_KIND_MCP_SERVER, name]) for name in spec.mcp_servers
        ),
        max_iterations=_first_set("max_iterations", MAX_ITERATIONS, options, spec),
        tool_concurrency=_first_set("tool_concurrency", TOOL_CONCURRENCY, options, spec),
        include_history=bool(_first_set("include_history", 1, options, spec)),
        timeout_s=_seconds(options.timeout) or _seconds(spec.timeout) or None,
        budget=_budget(options.budget, spec.budget),
    )


def _budget(run: agent_pb2.Budget, agent: agent_pb2.Budget) -> Budget:
    merged = agent_pb2.Budget()
    merged.CopyFrom(agent)
    merged.MergeFrom(run)
    return Budget(
        max_tokens=merged.max_tokens if merged.HasField("max_tokens") else None,
        max_cost_nano_usd=merged.max_cost_nano_usd if merged.HasField("max_cost_nano_usd") else None,
        max_tool_calls=merged.max_tool_calls if merged.HasField("max_tool_calls") else None,
    )


def _server(component: component_pb2.Component) -> Server:
    spec = component.mcp_server
    connect_s = _seconds(spec.connect_timeout) or CONNECT_TIMEOUT_S
    call_s = _seconds(spec.call_timeout) or TOOL_CALL_TIMEOUT_S
    return Server(component.name, component.version, connect_s + call_s + HOST_GRACE_S)


def _first_set(name: str, default: int, *levels: run_pb2.RunOptions | agent_pb2.AgentSpec) -> int:
    for level in levels:
        if level.HasField(name):  # type: ignore[arg-type]
            return int(getattr(level, name))
    return default


def _seconds(duration: Duration) -> float:
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


def _llm_definition(name: str, spec: llm_pb2.LlmSpec, *over: llm_pb2.GenerationSettings) -> LlmDefinition:
    protocol: Literal["openai_chat"] | None = (
        "openai_chat" if spec.protocol == llm_pb2.LLM_PROTOCOL_OPENAI_CHAT else None
    )
    price = spec.price
    return LlmDefinition(
        name=name,
        model=spec.model,
        transport=choose_transport(_TRANSPORTS[spec.transport], protocol),
        protocol=protocol,
        base_url=spec.base_url or None,
        api_key=spec.api_key,
        headers=dict(spec.headers),
        generation=_generation(*over, spec.generation),
        timeout_s=_seconds(spec.timeout) or LLM_TIMEOUT_S,
        max_retries=spec.max_retries if spec.HasField("max_retries") else MAX_RETRIES,
        price=Price(
            price.input_nano_usd_per_million if price.HasField("input_nano_usd_per_million") else None,
            price.output_nano_usd_per_million if price.HasField("output_nano_usd_per_million") else None,
            price.cached_input_nano_usd_per_million
            if price.HasField("cached_input_nano_usd_per_million")
            else None,
        ),
    )


def run_started(run: RunRow, request: RunRequest, resolved: ResolveComponentResponse) -> event_pb2.RunEvent:
    """The first event of a run."""
    event = event_pb2.RunEvent(run_id=run.run_id, sequence=1)
    seconds, micros = divmod(run.create_us, 1_000_000)
    event.time.seconds, event.time.nanos = seconds, micros * 1000
    started = event.run_started
    started.target.kind = resolved.component.kind
    started.target.name = resolved.component.name
    started.target.version = resolved.component.version
    started.session_id = run.session_id
    started.base_session_id = run.session_id
    started.message = request.message
    for each in resolved.dependencies:
        started.dependencies.add(kind=each.kind, name=each.name, version=each.version)
    return event


def run_to_proto(row: RunRow) -> run_pb2.Run:
    """A run as callers see it."""
    request = RunRequest.FromString(row.request)
    run = run_pb2.Run(
        run_id=row.run_id,
        namespace=row.namespace,
        root_run_id=row.root_run_id,
        target=component_pb2.ComponentRef(
            kind=component_pb2.ComponentKind.ValueType(row.target_kind),
            name=row.target_name,
            version=row.target_version,
        ),
        state=run_pb2.RunState.ValueType(row.state),
        session_id=row.session_id,
        message=request.message,
        labels=request.labels,
    )
    run.create_time.FromMicroseconds(row.create_us)
    if row.end_us is not None:
        run.end_time.FromMicroseconds(row.end_us)
    if row.result is not None:
        run.result.MergeFromString(row.result)
    return run


def session_to_proto(row: SessionRow) -> session_pb2.Session:
    """A session as callers see it."""
    session = session_pb2.Session(
        session_id=row.session_id, namespace=row.namespace, message_count=row.message_count
    )
    session.create_time.FromMicroseconds(row.create_us)
    session.update_time.FromMicroseconds(row.update_us)
    return session


def message_to_proto(row: MessageRow) -> session_pb2.SessionMessage:
    """A message of a session as callers see it."""
    message = session_pb2.SessionMessage(
        position=row.position, run_id=row.run_id, message_json=row.message_json
    )
    message.time.FromMicroseconds(row.time_us)
    return message


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
