"""What steps of workflows cost beside the work in them: one after the other, side by side, few and many."""

import json
import time
from contextlib import AsyncExitStack
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import grpc

from bench.processes import BenchError, rss_mib
from bench.services import Retinue, open_retinue
from retinue.engine.v1 import run_pb2, service_pb2, service_pb2_grpc
from retinue.registry.v1 import component_pb2, workflow_pb2
from retinue.registry.v1 import service_pb2 as registry_pb2
from retinue.registry.v1 import service_pb2_grpc as registry_grpc

SIZES = (250, 500, 1000)
"""Steps, and branches: the cost of each must not grow with their number."""
_TIMEOUT_S = 120.0


async def measure_workflows(*, rounds: int) -> dict[str, float]:
    """The time of each step and branch, and the engine's memory, at each size; medians over rounds."""
    async with AsyncExitStack() as stack:
        retinue = stack.enter_context(open_retinue())
        registry = await stack.enter_async_context(
            grpc.aio.insecure_channel(retinue.environments["registry"]["RETINUE_REGISTRY_ADDRESS"])
        )
        engine = await stack.enter_async_context(
            grpc.aio.insecure_channel(
                retinue.engine.address, options=[("grpc.max_receive_message_length", 16 * 1024 * 1024)]
            )
        )
        components = [component for size in SIZES for component in _components(size)]
        await registry_grpc.RegistryServiceStub(registry).ApplyComponents(
            registry_pb2.ApplyComponentsRequest(components=components)
        )
        stub = service_pb2_grpc.RunServiceStub(engine)
        await _run(stub, f"tools-{SIZES[0]}")
        return await _measure(retinue, stub, rounds)


async def _measure(retinue: Retinue, stub: service_pb2_grpc.RunServiceStub, rounds: int) -> dict[str, float]:
    pid = retinue.engine.process.pid
    found: dict[str, float] = {}
    for name, what in (
        ("tools", "tool steps in a row"),
        ("steps", "transform steps in a row"),
        ("branches", "branches of an each, a tool call each"),
        ("fork", "nodes of a fork that come together"),
    ):
        per_step: dict[int, float] = {}
        for size in SIZES:
            taken = [await _run(stub, f"{name}-{size}") for _ in range(rounds)]
            per_step[size] = median(each.per_step_ms for each in taken)
            found[f"{what}: each of {size:,}, ms"] = per_step[size]
            found[f"  engine's memory after {name}-{size}, MiB"] = rss_mib(pid)
            if name == "tools" and size == SIZES[-1]:
                p50_ms, call_ms = (
                    median(each.p50_ms for each in taken),
                    median(each.call_ms for each in taken),
                )
                found["  p50 of one, ms"] = p50_ms
                found["    of it the call of its tool, ms"] = call_ms
                found["    of it what the step adds, durable, ms (target: under 2)"] = p50_ms - call_ms
        ratio = per_step[SIZES[-1]] / per_step[SIZES[0]]
        found[f"{what}: one of {SIZES[-1]:,} to one of {SIZES[0]}"] = ratio
    return found


class _Took(NamedTuple):
    """Of one run."""

    per_step_ms: float
    """All of it, shared among its steps or branches."""
    p50_ms: float
    """From the end of a step to that of the next."""
    call_ms: float
    """A tool call, as the engine waits for it; the median."""


async def _run(stub: service_pb2_grpc.RunServiceStub, name: str) -> _Took:
    size = int(name.rpartition("-")[2])
    request = service_pb2.StreamRunRequest(
        run=service_pb2.RunRequest(
            target=component_pb2.ComponentRef(name=name), message="hello", request_id=f"{time.time_ns()}"
        )
    )
    ends: list[int] = []
    calls: list[int] = []
    done = 0
    result: run_pb2.RunResult | None = None
    async for response in stub.StreamRun(request, timeout=_TIMEOUT_S):
        for event in response.events:
            which = event.WhichOneof("event")
            if which == "step_completed":
                ends.append(event.time.ToMicroseconds())
            elif which == "tool_call_completed":
                calls.append(event.tool_call_completed.duration.ToMicroseconds())
            elif which == "run_finished":
                result = event.run_finished.result
            done += which in ("step_completed", "branch_joined")
    if result is None or result.state != run_pb2.RUN_STATE_SUCCEEDED or done < size:
        raise BenchError(f"a run of {name} ended otherwise than it should, with {done} steps: {result}")
    between = [later - before for before, later in pairwise(ends)] or [0]
    return _Took(
        result.duration.ToMicroseconds() / 1000 / size, median(between) / 1000, median(calls or [0]) / 1000
    )


def _components(size: int) -> list[component_pb2.Component]:
    tool = workflow_pb2.ToolTarget(server="echo", tool="echo", arguments_json='{"text": "{{ input }}"}')
    transform = workflow_pb2.TransformTarget(expression="size(input)")
    numbers = range(size - 2)
    fork = workflow_pb2.GraphWorkflowSpec(
        nodes=[
            _step(name, transform=transform) for name in ("begin", *(f"n{each}" for each in numbers), "end")
        ],
        edges=[workflow_pb2.GraphEdge(source="begin", target=f"n{each}") for each in numbers]
        + [workflow_pb2.GraphEdge(source=f"n{each}", target="end") for each in numbers],
    )
    each = workflow_pb2.EachTarget(items="state.items", tool=tool)
    return [
        _linear(f"tools-{size}", [_step(f"s{number}", tool=tool) for number in range(size)]),
        _linear(f"steps-{size}", [_step(f"s{number}", transform=transform) for number in range(size)]),
        _linear(f"branches-{size}", [_step("all", each=each)], json.dumps({"items": [0] * size})),
        component_pb2.Component(name=f"fork-{size}", graph_workflow=fork),
    ]


def _step(name: str, **target: Any) -> workflow_pb2.WorkflowStep:
    return workflow_pb2.WorkflowStep(name=name, **target)


def _linear(
    name: str, steps: list[workflow_pb2.WorkflowStep], state_json: str = ""
) -> component_pb2.Component:
    spec = workflow_pb2.LinearWorkflowSpec(steps=steps, state_json=state_json)
    return component_pb2.Component(name=name, linear_workflow=spec)
