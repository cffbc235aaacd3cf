"""What runs ask people, and the answers: in words, as values, and as the commands that give them."""

import json
import shlex
from typing import TYPE_CHECKING

from retinue_cli.call import Call
from retinue_cli.failures import USAGE, CommandError
from retinue_cli.wording import one_line

if TYPE_CHECKING:
    from retinue.engine.v1 import input_pb2

SHORT = 300
"""Most characters of arguments, schemas and answers where not all is asked for."""

_STATES = {1: "pending", 2: "answered", 3: "closed"}


def input_state(state: int) -> str:
    """An InputState in words."""
    return _STATES.get(state, "unknown")


def asked(request: "input_pb2.InputRequest", *, longest: int = SHORT) -> str:
    """What is asked, on one line."""
    if request.HasField("approval"):
        approval = request.approval
        name = f"{approval.server}.{approval.tool}" if approval.server else approval.tool
        again = " again, though it may have happened" if approval.interrupted else ""
        return f"may {name} be called{again}? {one_line(approval.arguments_json, longest)}"
    return one_line(request.question.text, longest)


def answered(answer: "input_pb2.InputAnswer", *, longest: int = SHORT) -> str:
    """An answer in words: `denied: too late`."""
    kind = answer.WhichOneof("answer")
    if kind == "approve":
        changed = one_line(answer.approve.arguments_json, longest)
        return f"approved with other arguments: {changed}" if changed else "approved"
    if kind == "deny":
        return f"denied: {one_line(answer.deny.reason, longest)}" if answer.deny.reason else "denied"
    if kind == "value_json":
        return f"answered: {one_line(answer.value_json, longest)}"
    return "refused" if kind == "refuse" else "nobody answered in time"


def ways_to_answer(call: Call, request: "input_pb2.InputRequest") -> list[str]:
    """The commands that answer a request."""
    where = f"{request.root_run_id or request.run_id} {request.input_id}"
    rest = call.repeated()
    if request.HasField("approval"):
        return [f"retinue approve {where}{rest}", f"retinue deny {where} --reason TEXT{rest}"]
    return [f"retinue answer {where} VALUE{rest}", f"retinue deny {where}{rest}"]


def told(call: Call, request: "input_pb2.InputRequest") -> str:
    """What is asked and how it is answered, in lines."""
    lines = [f"{request.run_id} asks: {asked(request)}"]
    lines += [f"  {way}" for way in ways_to_answer(call, request)]
    return "\n".join(lines)


def value_of(text: str, schema_json: str) -> object:
    """The value that somebody typed: JSON, or the text itself where that may be the answer."""
    schema = json.loads(schema_json) if schema_json else {}
    wanted = schema.get("type", []) if isinstance(schema, dict) else []
    types = [wanted] if isinstance(wanted, str) else list(wanted)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        if types and "string" not in types:
            wish = " or ".join(types)
            example = {"object": '{"name": "Ada"}', "array": '["a", "b"]'}.get(types[0], "true")
            raise CommandError(
                f"the answer has to be JSON, of type {wish}, like {shlex.quote(example)}", status=USAGE
            ) from None
        return text
    return text if types == ["string"] and not isinstance(value, str) else value


def arguments_of(text: str) -> str:
    """Arguments that somebody typed, as they are sent: a JSON object."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise CommandError(
            "the arguments have to be a JSON object, like " + shlex.quote('{"path": "notes.txt"}'),
            status=USAGE,
        )
    return text
