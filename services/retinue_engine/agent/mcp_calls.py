"""One call of an MCP server's tool, and what the server asks for in the middle of it."""

from retinue.engine.v1 import event_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_SUCCEEDED,
    TOOL_CALL_OUTCOME_TOOL_ERROR,
    RequestedToolCall,
    ToolCallCompleted,
)
from retinue_engine.agent.attachments import new_blob
from retinue_engine.agent.server_asks import answering
from retinue_engine.agent.work import AgentRun
from retinue_engine.stores.rows import Effects
from retinue_engine.tools import Tool, ToolAnswer, ToolRequest

MAX_RESULT_BYTES = 384 * 1024
"""Most of a result that a model is told; the rest is cut, and says so. An event holds text and structure."""

MAX_PROGRESS_TEXT = 4 * 1024
"""Most characters of a server's word on its progress."""


async def call_mcp_tool(
    run: AgentRun, call: RequestedToolCall, tool: Tool, arguments_json: str, idempotency_key: str
) -> tuple[ToolCallCompleted, Effects | None]:
    """What the tool answered, and the blobs that came with it. Raises a RetinueError where there is none."""

    def on_progress(progress: float, total: float | None, message: str) -> None:
        update = event_pb2.ToolCallProgress(
            call_id=call.call_id, progress=progress, total=total, message=message[:MAX_PROGRESS_TEXT]
        )
        run.emit(f"turn:{run.conversation.turn}", tool_call_progress=update)

    request = ToolRequest(
        namespace=run.work.row.namespace,
        tool=tool,
        arguments_json=arguments_json or "{}",
        idempotency_key=idempotency_key,
        # The whole tree is one caller: what a server asks in a call of one of its runs is no stranger's.
        run_id=run.work.row.run_id,
        session_id=run.work.row.session_id,
    )
    answer = await run.work.means.toolbox.call_tool(request, on_progress, answering(run, call, tool))
    return completed_of(run.work.row.run_id, answer)


def completed_of(root_run_id: str, answer: ToolAnswer) -> tuple[ToolCallCompleted, Effects | None]:
    """How an answer stands in its event, and the blobs that came with it."""
    completed = ToolCallCompleted(
        outcome=TOOL_CALL_OUTCOME_TOOL_ERROR if answer.is_error else TOOL_CALL_OUTCOME_SUCCEEDED,
        text=cut(answer.text),
        structured_json=answer.structured_json if fits(answer.structured_json) else "",
    )
    if not answer.blobs:
        return completed, None
    blobs = [new_blob(root_run_id, each.mime_type, "", each.data) for each in answer.blobs]
    for blob in blobs:
        completed.attachments.add(blob_id=blob.blob_id, mime_type=blob.mime_type, size_bytes=len(blob.data))
    return completed, Effects(blobs=blobs)


def fits(text: str) -> bool:
    """Whether a model can be told all of a text."""
    # No character has more than 4 bytes; most texts are so short that nobody needs to count.
    return 4 * len(text) <= MAX_RESULT_BYTES or len(text.encode()) <= MAX_RESULT_BYTES


def cut(text: str) -> str:
    """What a model is told of a text."""
    if fits(text):
        return text
    kept = text.encode()[:MAX_RESULT_BYTES].decode(errors="ignore")
    return f"{kept}\n[cut: {len(text) - len(kept)} more characters]"
