"""What the code of a custom workflow may ask for: checked, brought into one form, and named."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from retinue.engine.v1.call_pb2 import WorkflowCall
from retinue.errors import (
    ComponentNotFoundError,
    InvalidArgumentError,
    PayloadTooLargeError,
    WorkerProtocolBrokenError,
)
from retinue.registry.v1.component_pb2 import COMPONENT_KIND_UNSPECIFIED, ComponentKind
from retinue_engine.agent.json_schema import parse_json
from retinue_engine.agent.output import OutputSchema
from retinue_engine.custom.definition import CustomDefinition
from retinue_engine.definition import INPUT_TIMEOUT_S
from retinue_engine.workflow.definition import Action, AskAction, RunAction, ToolAction

MAX_CALL_BYTES = 384 * 1024
"""Of one call: its event holds it."""
MAX_KEY = 200
MAX_NAME = 200
"""Characters of the name of an event or of a value of the state."""
MAX_TRIES = 1_000
"""Of one step of the code."""
STEP_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
MAX_WAIT_S = 366 * 24 * 3600.0
"""The longest sleep and the longest time limit."""


def key_of_kind(call: WorkflowCall) -> str:
    """The beginning of the key of a call that has no name: its kind and its target."""
    match call.WhichOneof("call"):
        case "run":
            kind = ComponentKind.Name(call.run.target.kind).removeprefix("COMPONENT_KIND_").lower()
            return f"{kind}:{call.run.target.name}"
        case "tool":
            return f"tool:{call.tool.server}.{call.tool.tool}"
        case "read_state":
            return f"read_state:{call.read_state.name}"
        case "write_state":
            return f"write_state:{call.write_state.name}"
        case "emit":
            return f"emit:{call.emit.name}"
        case what:
            return str(what)


def in_one_form(definition: CustomDefinition, given: WorkflowCall) -> WorkflowCall:
    """The call as it stands in the journal: the same call is the same bytes.

    Raises InvalidArgumentError, ComponentNotFoundError, PayloadTooLargeError where it can not be made, and
    WorkerProtocolBrokenError where it asks for nothing.
    """
    call = WorkflowCall()
    call.CopyFrom(given)
    which = call.WhichOneof("call")
    if which is None:
        raise WorkerProtocolBrokenError("a call asks for nothing: set one of the fields of WorkflowCall")
    if call.HasField("timeout"):
        _check_wait("timeout", call.timeout)
    _FORMS[which](definition, call)
    _check_size(call)
    return call


def _form_run(definition: CustomDefinition, call: WorkflowCall) -> None:
    # A run that goes on from another may run another version.
    call.run.target.kind, call.run.target.version = _runnable(definition, call).kind, 0


def _form_tool(definition: CustomDefinition, call: WorkflowCall) -> None:
    tool_of(definition, call)
    arguments = _plain_json(call.tool.arguments_json or "{}", "the arguments")
    if not isinstance(arguments, dict):
        raise InvalidArgumentError("the arguments of a tool must be a JSON object")
    call.tool.arguments_json = _canonical(arguments)


def _form_input(_: CustomDefinition, call: WorkflowCall) -> None:
    if call.input.answer_schema_json:
        OutputSchema(call.input.answer_schema_json, "answer_schema_json")
    if call.input.HasField("timeout"):
        _check_wait("timeout", call.input.timeout)


def _form_sleep(_: CustomDefinition, call: WorkflowCall) -> None:
    _check_wait("duration", call.sleep.duration)


def _form_read(_: CustomDefinition, call: WorkflowCall) -> None:
    _check_name(call.read_state.name)


def _form_write(_: CustomDefinition, call: WorkflowCall) -> None:
    _check_name(call.write_state.name)
    if call.write_state.value_json:
        call.write_state.value_json = _canonical(_plain_json(call.write_state.value_json, "the value"))


def _form_emit(_: CustomDefinition, call: WorkflowCall) -> None:
    _check_name(call.emit.name)
    call.emit.data_json = _canonical(_plain_json(call.emit.data_json or "null", "the data"))


def _form_step(_: CustomDefinition, call: WorkflowCall) -> None:
    step = call.step
    if not STEP_NAME.fullmatch(step.step):
        raise InvalidArgumentError(
            f"{step.step[:80]!r} cannot be a step's name: use 1 to 63 of A-Z, a-z, 0-9 and _, no digit first"
        )
    if not 1 <= step.attempt <= MAX_TRIES:
        raise InvalidArgumentError(f"a step has tries from 1 to {MAX_TRIES}, and {step.attempt} is none")
    if step.output_json:
        step.output_json = _canonical(_plain_json(step.output_json, "the output"))
    for name, value_json in step.values_json.items():
        _check_name(name)
        step.values_json[name] = _canonical(_plain_json(value_json, "the value"))


def _form_nothing(_: CustomDefinition, __: WorkflowCall) -> None:
    """There is nothing in it."""


_FORMS: Mapping[str, Callable[[CustomDefinition, WorkflowCall], None]] = {
    "run": _form_run,
    "tool": _form_tool,
    "input": _form_input,
    "sleep": _form_sleep,
    "read_state": _form_read,
    "write_state": _form_write,
    "emit": _form_emit,
    "list_tools": _form_nothing,
    "step": _form_step,
}


def action_of(definition: CustomDefinition, call: WorkflowCall) -> tuple[Action, str]:
    """What a call that runs, calls or asks something does, and what it asks. Raises as `in_one_form`."""
    if call.HasField("run"):
        return _runnable(definition, call), call.run.message
    if call.HasField("tool"):
        return tool_of(definition, call), call.tool.arguments_json
    timeout_s = call.input.timeout.ToMicroseconds() / 1_000_000 or INPUT_TIMEOUT_S
    return AskAction(call.input.question, call.input.answer_schema_json, timeout_s), call.input.question


def tool_of(definition: CustomDefinition, call: WorkflowCall) -> ToolAction:
    """The tool that a call is about. Raises ComponentNotFoundError."""
    for server in definition.servers:
        if server.name == call.tool.server:
            return ToolAction(server, call.tool.tool, {})
    names = ", ".join(each.name for each in definition.servers) or "none"
    raise ComponentNotFoundError(
        f"the workflow {definition.name} has no MCP server {call.tool.server!r}: its `mcp_servers` are "
        f"{names}",
        name=call.tool.server,
    )


def _runnable(definition: CustomDefinition, call: WorkflowCall) -> RunAction:
    target = call.run.target
    wanted = {target.kind} if target.kind else {each.kind for each in definition.runs}
    found = [each for each in definition.runs if each.name == target.name and each.kind in wanted]
    if len(found) == 1:
        return found[0]
    if found:
        kinds = ", ".join(_kind_word(each.kind) for each in found)
        raise InvalidArgumentError(f"{target.name!r} is the name of several: say which kind, of {kinds}")
    names = ", ".join(f"{_kind_word(each.kind)} {each.name}" for each in definition.runs) or "nothing"
    what = _kind_word(target.kind) if target.kind != COMPONENT_KIND_UNSPECIFIED else "agent or workflow"
    raise ComponentNotFoundError(
        f"the workflow {definition.name} may not run the {what} {target.name!r}: its config names {names}",
        name=target.name,
    )


def _kind_word(kind: int) -> str:
    known = kind in ComponentKind.values()
    name = ComponentKind.Name(ComponentKind.ValueType(kind)) if known else f"kind {kind}"
    return name.removeprefix("COMPONENT_KIND_").lower().replace("_", " ")


def check_key(key: str) -> None:
    """Raise InvalidArgumentError for a key that a call can not have."""
    if len(key) > MAX_KEY or not key.isprintable():
        raise InvalidArgumentError(
            f"{key[:80]!r} cannot be the key of a call: use 1 to {MAX_KEY} characters that can be printed"
        )


def _check_name(name: str) -> None:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InvalidArgumentError(
            f"{name[:80]!r} is no name: use 1 to {MAX_NAME} characters that can be printed"
        )


def _check_wait(field: str, span: Duration) -> None:
    seconds = span.ToNanoseconds() / 1e9
    least = 0.0 if field == "duration" else 1e-9
    if not least <= seconds <= MAX_WAIT_S:
        raise InvalidArgumentError(f"{field} is {seconds:g} s: use up to {MAX_WAIT_S:g} s")


def _plain_json(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{what} of a call must be JSON: {error}") from None


def _canonical(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(
            "a text in a call holds half of a surrogate pair, which is no text"
        ) from None
    return text


def _check_size(call: WorkflowCall) -> None:
    size = call.ByteSize()
    if size > MAX_CALL_BYTES:
        raise PayloadTooLargeError(
            f"the call has {size} bytes, and a workflow's call takes {MAX_CALL_BYTES}: send less",
            size_bytes=size,
            limit_bytes=MAX_CALL_BYTES,
        )
