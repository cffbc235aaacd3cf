"""`ask_user`: a question of the model to a person, with a typed answer."""

import json
from collections.abc import Mapping
from typing import Any

from retinue.engine.v1 import input_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_SUCCEEDED,
    RequestedToolCall,
    ToolCallCompleted,
)
from retinue.errors import InvalidArgumentError
from retinue_engine.agent.inputs import answer_text, request_input
from retinue_engine.agent.output import OutputSchema
from retinue_engine.agent.work import AgentRun
from retinue_engine.llm.tool_calls import without_surrogates
from retinue_engine.outcome import run_error


def ask_user(
    run: AgentRun, call: RequestedToolCall, arguments: Mapping[str, Any]
) -> ToolCallCompleted | None:
    """What the model is told; None while nobody has answered. The first time, the person is asked."""
    asked = run.conversation.asked.get(call.call_id)
    if asked is None:
        return _ask(run, call, arguments)
    if asked.answer is None:
        return None
    return ToolCallCompleted(
        outcome=TOOL_CALL_OUTCOME_SUCCEEDED,
        text=answer_text(asked.answer),
        structured_json=asked.answer.value_json,
    )


def _ask(run: AgentRun, call: RequestedToolCall, arguments: Mapping[str, Any]) -> ToolCallCompleted | None:
    schema = arguments.get("answer_schema")
    schema_json = json.dumps(schema) if schema else ""
    if schema_json:
        try:
            OutputSchema(schema_json)
        except InvalidArgumentError as error:
            why = f"answer_schema cannot be used, ask again with another one: {error}"
            return ToolCallCompleted(outcome=TOOL_CALL_OUTCOME_CALL_FAILED, text=why, error=run_error(error))
    text = without_surrogates(arguments["question"])
    question = input_pb2.Question(text=text, schema_json=schema_json)
    request_input(run, call.call_id, question=question)
    return None
