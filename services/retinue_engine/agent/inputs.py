"""Asking somebody outside: how a request for input is made, and what its answer says to the model."""

import secrets
import time

from retinue.engine.v1 import event_pb2, input_pb2
from retinue_engine.agent.work import AgentRun, RunAtWork


def request_input(
    run: AgentRun,
    call_id: str,
    *,
    approval: input_pb2.ToolCallApproval | None = None,
    question: input_pb2.Question | None = None,
    expire_us: int | None = None,
) -> str:
    """Make a request for input of a tool call of the current turn; return its id.

    It expires at `expire_us`, else when the agent's setting says so.
    """
    expires_us = expire_us or _now_us() + int(run.agent.input_timeout_s * 1_000_000)
    request = input_pb2.InputRequest(call_id=call_id, approval=approval, question=question)
    return emit_request(run, f"turn:{run.conversation.turn}", request, expires_us)


def emit_request(run: RunAtWork, step: str, request: input_pb2.InputRequest, expire_us: int) -> str:
    """Make a request for input at a step of a run, from what it asks; return its id."""
    request.input_id = f"input-{secrets.token_hex(8)}"
    request.namespace = run.work.row.namespace
    request.run_id = run.run_id
    request.root_run_id = run.work.row.run_id
    request.path = run.place(step)
    request.state = input_pb2.INPUT_STATE_PENDING
    request.create_time.FromMicroseconds(_now_us())
    request.expire_time.FromMicroseconds(expire_us)
    run.emit(step, input_requested=event_pb2.InputRequested(request=request))
    return request.input_id


def _now_us() -> int:
    return time.time_ns() // 1000


def denial(approval: input_pb2.ToolCallApproval, answer: input_pb2.InputAnswer) -> str:
    """What the model is told of a call that was not approved."""
    what = "the call was not made"
    if approval.interrupted:
        what = "the call was cut off and may have happened; it was not made again"
    if answer.HasField("expired"):
        return f"{what}: nobody approved it in time"
    reason = answer.deny.reason
    return f"{what}: a person denied it{': ' + reason if reason else ''}"


def answer_text(answer: input_pb2.InputAnswer) -> str:
    """What the model is told of a question's answer."""
    if answer.HasField("expired"):
        return "nobody answered the question in time"
    if answer.HasField("refuse"):
        return "the person does not want to answer the question"
    return answer.value_json
