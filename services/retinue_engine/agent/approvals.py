"""Whether a tool call may be made: at once, after a person's word, or again after an engine's stop."""

import hashlib
from typing import NamedTuple

from retinue.engine.v1 import input_pb2
from retinue.engine.v1.event_pb2 import RequestedToolCall
from retinue.errors import ToolCallInterruptedError
from retinue_engine.agent.conversation import Asked
from retinue_engine.agent.inputs import denial, request_input
from retinue_engine.agent.work import AgentRun
from retinue_engine.definition import ToolPolicy
from retinue_engine.tools import Tool


class Verdict(NamedTuple):
    """What may happen to a call now."""

    arguments_json: str | None = None
    """Make it with these arguments."""
    denial: str = ""
    """Do not make it, and tell the model this. Where neither is set, a person has not answered yet."""
    changed: bool = False
    """Whether a person gave other arguments than the model."""


WAIT = Verdict()


def judge(run: AgentRun, call: RequestedToolCall, tool: Tool) -> Verdict:
    """What may happen to a call; a person is asked where that is needed and has not been done.

    Raises ToolCallInterruptedError for one that was under way when an engine stopped and whose policy is to
    fail.
    """
    policy = run.agent.policy(tool.server.name, tool.name)
    asked = run.conversation.approvals.get(call.call_id)
    started_at = run.conversation.started.get(call.call_id)
    if started_at is None:
        return _approval(run, call, tool, asked) if _needs_approval(policy, tool) else _go(call, asked)
    match _after_interruption(policy, tool):
        case "repeat":
            return _go(call, asked)
        case "fail":
            raise ToolCallInterruptedError(
                f"the engine stopped while {tool.server.name}/{tool.name} was being called, and it may have "
                "happened: by its policy `interrupted: fail` it is not called again",
                server=tool.server.name,
                tool=tool.name,
            )
    # A word that was given before this call began was about another try.
    about_this = (
        asked is not None
        and asked.request.approval.interrupted
        and (asked.answer is None or asked.answered_at > started_at)
    )
    return _approval(run, call, tool, asked if about_this else None, interrupted=True)


def _needs_approval(policy: ToolPolicy, tool: Tool) -> bool:
    if policy.approval == "destructive":
        return tool.destructive and not tool.read_only
    return policy.approval == "always"


def _after_interruption(policy: ToolPolicy, tool: Tool) -> str:
    if policy.interrupted == "auto":
        return "repeat" if tool.repeatable else "ask"
    return policy.interrupted


def _approval(
    run: AgentRun, call: RequestedToolCall, tool: Tool, asked: Asked | None, *, interrupted: bool = False
) -> Verdict:
    if asked is None:
        before = run.conversation.approvals.get(call.call_id)
        arguments = _arguments(call, before)
        approval = input_pb2.ToolCallApproval(
            server=tool.server.name,
            tool=tool.name,
            arguments_json=arguments,
            arguments_sha256=hashlib.sha256(arguments.encode()).hexdigest(),
            interrupted=interrupted,
        )
        request_input(run, call.call_id, approval=approval)
        return WAIT
    if asked.answer is None:
        return WAIT
    if not asked.answer.HasField("approve"):
        return Verdict(denial=denial(asked.request.approval, asked.answer))
    return _go(call, asked)


def _go(call: RequestedToolCall, asked: Asked | None) -> Verdict:
    arguments = _arguments(call, asked)
    return Verdict(arguments, changed=arguments != call.arguments_json)


def _arguments(call: RequestedToolCall, asked: Asked | None) -> str:
    """The arguments that hold now: a person's, who approved with others, else the model's."""
    if asked is None:
        return call.arguments_json
    given = asked.answer.approve.arguments_json if asked.answer is not None else ""
    return given or asked.request.approval.arguments_json
