"""The models have the same fields as the protos."""

import functools
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from retinue.registry.v1 import component_pb2
from retinue_registry.convert import (
    SPECS,
    ProtoCodec,
    enum_words,
    fill,
    holds_json,
    is_map,
    key_of,
    kind_to_proto,
    values_of,
)
from retinue_registry.kinds import KINDS
from retinue_registry.models.fields import Part
from retinue_registry.models.step import RUNS, TARGETS
from retinue_registry.validation import LABELS, check_spec

from .full_specs import (
    CUSTOM_COMMAND,
    FULL,
    HTTP,
    HTTP_LOGIN,
    HTTP_OAUTH,
    MINIMAL,
    SSE,
    SSE_OAUTH,
    SSE_WORKLOAD,
)

HTTP_KINDS = (HTTP, SSE, HTTP_OAUTH, SSE_OAUTH, HTTP_LOGIN, SSE_WORKLOAD)
OF_STEPS = (
    "input",
    "condition",
    "timeout",
    "retry",
    "on_error",
    "fallback",
    "output",
    "set",
    "arguments_json",
)


def _part_of(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((part for each in get_args(annotation) if (part := _part_of(each))), None)


def _pairs(message: Any, model: type[BaseModel], place: str) -> Iterator[tuple[Any, type[BaseModel], str]]:
    yield message, model, place
    for field in message.fields:
        part = _part_of(model.model_fields[key_of(field)].annotation)
        if part is not None:
            yield from _pairs(field.message_type, part, f"{place}.{field.name}")


@pytest.mark.parametrize("kind", KINDS)
def test_proto_and_model_have_the_same_fields_and_words(kind: str) -> None:
    for message, model, place in _pairs(SPECS[kind].DESCRIPTOR, KINDS[kind].model, kind):
        assert {key_of(field) for field in message.fields} == set(model.model_fields), place
        assert len(message.fields) == len(model.model_fields), place
        for field in message.fields:
            annotation = model.model_fields[key_of(field)].annotation
            types = [get_args(each)[0] for each in get_args(annotation) if get_origin(each) is Annotated]
            assert holds_json(field) is (dict[str, Any] in types), f"{place}.{field.name}"
            if field.enum_type is not None:
                words = {w for each in (annotation, *get_args(annotation)) for w in get_args(each)}
                known = {word for number, word in enum_words(field.enum_type).items() if number}
                assert known == {w for w in words if isinstance(w, str)}, f"{place}.{field.name}"


def test_the_table_of_kinds_is_that_of_the_protos() -> None:
    numbers = [kind_to_proto(kind) for kind in KINDS]
    assert numbers == sorted(set(component_pb2.ComponentKind.values()) - {0})
    cases = component_pb2.Component.DESCRIPTOR.oneofs_by_name["spec"].fields
    assert [field.name for field in cases] == list(KINDS) == list(SPECS)
    assert all(LABELS not in kind.model.model_fields for kind in KINDS.values())


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_reaches_the_proto_and_comes_back(kind: str) -> None:
    for values in (
        FULL[kind],
        *(
            (HTTP, SSE, HTTP_OAUTH, SSE_OAUTH, HTTP_LOGIN, SSE_WORKLOAD)
            if kind == "mcp_server"
            else [MINIMAL[kind]]
        ),
        *([CUSTOM_COMMAND] if kind == "custom_workflow" else []),
    ):
        spec, broken = check_spec(kind, values)
        assert not broken
        assert spec is not None
        dumped = spec.model_dump(exclude_none=True)
        assert dumped == values
        message = SPECS[kind]()
        fill(message, dumped)
        assert {key_of(field) for field, _ in message.ListFields()} == set(values)
        again, broken = check_spec(kind, values_of(message))
        assert again == spec
        assert not broken
        codec = ProtoCodec()
        data = codec.encode(kind, dumped)
        assert codec.encode(kind, dict(reversed(dumped.items()))) == data


def merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        more = {key: merged(one[key], value) if key in one else value for key, value in other.items()}
        return {**one, **more}
    return [*one, *other] if isinstance(one, list) and isinstance(other, list) else one


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_specs_of_these_tests_leave_no_field_out(kind: str) -> None:
    def missing(message: Any, values: dict[str, Any], place: str) -> Iterator[str]:
        for field in message.fields:
            below = f"{place}.{field.name}"
            if key_of(field) not in values:
                yield below
            elif field.message_type is not None and not is_map(field):
                value = values[key_of(field)]
                parts = [each for each in (value if field.is_repeated else [value]) if isinstance(each, dict)]
                if parts:
                    # One of several has a field: that is enough.
                    yield from missing(field.message_type, functools.reduce(merged, parts), below)

    whole = FULL[kind]
    if kind == "mcp_server":
        oauth = SSE_WORKLOAD["sse"]["oauth"] | SSE_OAUTH["sse"]["oauth"]
        http = merged(HTTP, merged(merged(HTTP_OAUTH, HTTP_LOGIN), {"streamable_http": {"oauth": oauth}}))
        whole = whole | http | merged(SSE, {"sse": {"oauth": http["streamable_http"]["oauth"]}})
    if kind == "custom_workflow":
        whole = whole | CUSTOM_COMMAND
    left_out = set(missing(SPECS[kind].DESCRIPTOR, whole, kind))
    # Settings of a model and budgets are written out once.
    assert left_out <= {
        *(f"agent.generation.{name}" for name in ("top_p", "max_output_tokens", "seed", "stop")),
        *(f"agent.session_budget.{name}" for name in FULL["agent"]["budget"]),
        *(
            f"{kind}.{budget}.{name}"
            for kind in ("linear_workflow", "graph_workflow", "custom_workflow")
            for budget in ("budget", "session_budget")
            for name in FULL["agent"]["budget"]
        ),
        # Targets of steps are written out once, as nodes; the rest of steps as steps.
        *(f"linear_workflow.steps.{name}" for name in (*TARGETS, "join")),
        *(f"graph_workflow.nodes.{name}" for name in (*RUNS, *OF_STEPS)),
        # In place of nodes.
        *(f"graph_workflow.{name}" for name in ("strategy", "agents", "chooser")),
        *(
            f"{place}.{name}"
            for place in ("graph_workflow.nodes.each", "graph_workflow.nodes.loop")
            for name in (
                "linear_workflow",
                "graph_workflow",
                "custom_workflow",
                "tool",
                "run",
                "arguments_json",
            )
        ),
        *(
            f"graph_workflow.nodes.failover.choices.{name}"
            for name in ("linear_workflow", "custom_workflow", "tool", "run", "arguments_json")
        ),
        *(
            f"linear_workflow.steps.fallback.{name}"
            for name in (
                "linear_workflow",
                "graph_workflow",
                "custom_workflow",
                "tool",
                "run",
                "arguments_json",
            )
        ),
        *(f"graph_workflow.nodes.router.routes.{name}" for name in ("when",)),
    }
