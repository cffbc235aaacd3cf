"""What an MCP server asks in the middle of a call, and the images that it answers with."""

import base64
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import BlobNotFoundError, InputClosedError
from tests.suite import Suite, check_story, stdio_server

OpenSuite = Callable[..., Awaitable[Suite]]

ASKING = Path(__file__).parents[2] / "servers" / "asking_server.py"
ASKING_SERVER = {"stdio": {"command": sys.executable, "args": [str(ASKING)]}}
PICTURE = b"\x89PNG not really"


async def calling(
    opened: OpenSuite, tool: str, arguments: dict[str, Any], *, allow_sampling: bool = False, **agent: Any
) -> Suite:
    """A suite whose model calls a tool of the server that asks, and then tells its result."""
    call = {"name": f"asking__{tool}", "arguments": arguments, "id": "c1"}
    return await opened(
        {
            "rules": [{"when": {"user_contains": "Name a"}, "text": "mauve", "chunk_size": 1000}],
            "turns": [{"tool_calls": [call]}, {"text": "told: {last_tool}", "chunk_size": 1000}],
        },
        agents={"b": {"mcp_servers": ["asking"], "max_iterations": 3, **agent}},
        mcp_servers={"asking": {**ASKING_SERVER, "allow_sampling": allow_sampling}},
    )


def only(events: list[event_pb2.RunEvent], kind: str) -> Any:
    (found,) = [getattr(event, kind) for event in events if event.HasField(kind)]
    return found


async def test_a_server_s_question_is_answered_by_a_person_while_the_call_goes_on(opened: OpenSuite) -> None:
    suite = await calling(opened, "elicit", {"question": "Which colour?"}, ask_user=True)
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    assert (request.question.text, request.question.server) == ("Which colour?", "asking")
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    await suite.client.inputs.provide(request, {"colour": "blue"})
    ended = await suite.ended(run.run_id)
    assert ended.result.output == "told: accept blue"
    events = await suite.watched(run.run_id)
    check_story(events)
    assert only(events, "input_received").answer.value_json == '{"colour": "blue"}'
    with pytest.raises(InputClosedError):
        await suite.client.inputs.refuse(request)


async def test_a_person_may_refuse_a_server_s_question(opened: OpenSuite) -> None:
    suite = await calling(opened, "elicit", {"question": "Which colour?"}, ask_user=True)
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.client.inputs.refuse(request)
    assert (await suite.ended(run.run_id)).result.output == "told: decline"


async def test_a_server_asks_nobody_where_the_agent_may_not(opened: OpenSuite) -> None:
    suite = await calling(opened, "elicit", {"question": "Which colour?"})
    events = await suite.story("b")
    assert not [event for event in events if event.HasField("input_requested")]
    assert only(events, "tool_call_completed").text == "decline"


async def test_a_question_is_over_when_its_run_is_cancelled(opened: OpenSuite) -> None:
    suite = await calling(opened, "elicit", {"question": "Which colour?"}, ask_user=True)
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    with pytest.raises(InputClosedError):
        await suite.client.inputs.provide(request, {"colour": "blue"})
    check_story(await suite.watched(run.run_id))


async def test_a_server_is_given_a_model_s_text_which_counts(opened: OpenSuite) -> None:
    suite = await calling(opened, "sample", {"prompt": "Name a colour"}, allow_sampling=True)
    events = await suite.story("b")
    sampled = only(events, "sampling_completed")
    assert (sampled.server, sampled.llm, sampled.text) == ("asking", "m", "mauve")
    result = events[-1].run_finished.result
    assert result.output.endswith(": mauve")
    answers = [event.message_completed for event in events if event.HasField("message_completed")]
    assert result.turns == len(answers) + 1
    assert result.usage.input_tokens == sum(each.usage.input_tokens for each in (*answers, sampled))
    (asked,) = [each for each in suite.model.requests if "Name a" in str(each["messages"][-1])]
    assert asked["max_tokens"] == 10
    assert "tools" not in asked


async def test_sampling_is_refused_where_the_server_s_config_does_not_allow_it(opened: OpenSuite) -> None:
    suite = await calling(opened, "sample", {"prompt": "Name a colour"})
    events = await suite.story("b")
    assert not [event for event in events if event.HasField("sampling_completed")]
    assert not [each for each in suite.model.requests if "Name a colour" in str(each["messages"][0])]


async def test_sampling_beyond_the_budget_ends_the_run(opened: OpenSuite) -> None:
    suite = await calling(
        opened, "sample", {"prompt": "Name a colour"}, allow_sampling=True, budget={"max_turns": 1}
    )
    events = await suite.story("b")
    assert events[-1].run_finished.result.stop_reason == run_pb2.STOP_REASON_BUDGET
    assert not [event for event in events if event.HasField("sampling_completed")]


async def test_an_image_of_a_tool_reaches_the_model_and_can_be_fetched(
    opened: OpenSuite, tmp_path: Path
) -> None:
    call = {
        "name": "tools__picture",
        "arguments": {"base64": base64.b64encode(PICTURE).decode()},
        "id": "c1",
    }
    suite = await opened(
        {"turns": [{"tool_calls": [call]}, {"text": "seen"}]},
        agents={"b": {"mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    events = await suite.story("b")
    (attachment,) = only(events, "tool_call_completed").attachments
    assert (attachment.mime_type, attachment.size_bytes) == ("image/png", len(PICTURE))
    run_id = events[0].run_id
    assert (await suite.client.runs.blob(run_id, attachment.blob_id)).data == PICTURE
    *_, tool, shown = suite.model.requests[-1]["messages"]
    assert tool["role"] == "tool"
    url = shown["content"][-1]["image_url"]["url"]
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == PICTURE
    with pytest.raises(BlobNotFoundError):
        await suite.client.runs.blob(run_id, "blob-none")
