"""A caller who is asked in the middle of tool calls, and what tests do with them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from retinue.errors import InvalidArgumentError, McpServerRequestNotFoundError
from retinue.mcphost.v1 import server_request_pb2, service_pb2, tool_pb2
from retinue.rpc_status import error_from_rpc

from .hosting import SOON_S, Host, until


def accept(content: Any) -> dict[str, Any]:
    """The answer of a person who fills it in."""
    return {
        "elicitation": server_request_pb2.ElicitationAnswer(
            action=server_request_pb2.ELICITATION_ACTION_ACCEPT, content_json=json.dumps(content)
        )
    }


DECLINE = {
    "elicitation": server_request_pb2.ElicitationAnswer(action=server_request_pb2.ELICITATION_ACTION_DECLINE)
}
CANCEL = {
    "elicitation": server_request_pb2.ElicitationAnswer(action=server_request_pb2.ELICITATION_ACTION_CANCEL)
}


def sampled(text: str) -> dict[str, Any]:
    """The answer of a model."""
    result = {"role": "assistant", "content": {"type": "text", "text": text}, "model": "m", "stopReason": "x"}
    return {"sampling": server_request_pb2.SamplingAnswer(result_json=json.dumps(result))}


def failed(message: str) -> dict[str, Any]:
    """That there is no answer."""
    return {"failure": server_request_pb2.ServerRequestFailure(message=message)}


async def answer(host: Host, request_id: str, **kind: Any) -> None:
    """Answer a request. Raises RetinueError."""
    request = service_pb2.AnswerServerRequestRequest(request_id=request_id, **kind)
    try:
        await host.stub.AnswerServerRequest(request)
    except grpc.aio.AioRpcError as failure:
        raise error_from_rpc(failure) from None


class Asked:
    """One CallTool, and what its server asks in it."""

    def __init__(self, host: Host, rpc: Any) -> None:
        self._host = host
        self.rpc = rpc
        self.requests: list[server_request_pb2.ServerRequest] = []
        self.closed: list[str] = []
        self.result: tool_pb2.ToolResult | None = None

    async def read(self) -> tool_pb2.ToolResult:
        """Take what comes; return the result. Raises RetinueError."""
        try:
            async for update in self.rpc:
                which = update.WhichOneof("update")
                if which == "request":
                    self.requests.append(update.request)
                elif which == "request_closed":
                    self.closed.append(update.request_closed.request_id)
                elif which == "result":
                    self.result = update.result
        except grpc.aio.AioRpcError as failure:
            raise error_from_rpc(failure) from None
        assert self.result is not None
        return self.result

    async def request(self, number: int = 0) -> server_request_pb2.ServerRequest:
        """Wait until so many were asked before, and return the next."""
        await until(lambda: len(self.requests) > number, "the server asks")
        return self.requests[number]

    async def answer(self, number: int = 0, **kind: Any) -> None:
        """Answer what is or will be asked."""
        await answer(self._host, (await self.request(number)).request_id, **kind)


@asynccontextmanager
async def calling(
    host: Host,
    server: str,
    tool: str,
    arguments: Any = None,
    *,
    elicitation: bool = True,
    sampling: bool = True,
    run_id: str = "",
) -> AsyncIterator[tuple[Asked, "asyncio.Task[tool_pb2.ToolResult]"]]:
    """A call under way, and its end. Leaving cancels it."""
    call = tool_pb2.ToolCall(
        server=tool_pb2.ServerRef(name=server),
        tool=tool,
        arguments_json=json.dumps(arguments or {}),
        run_id=run_id,
        accepts_elicitation=elicitation,
        accepts_sampling=sampling,
    )
    asked = Asked(host, host.stub.CallTool(service_pb2.CallToolRequest(call=call)))
    end = asyncio.create_task(asked.read())
    try:
        yield asked, end
    finally:
        asked.rpc.cancel()
        end.cancel()
        await asyncio.wait([end])


def text(result: tool_pb2.ToolResult) -> str:
    """The result's text."""
    return result.content[0].text


async def is_open(host: Host, request_id: str) -> bool:
    """Whether a request waits for its answer; it goes on waiting."""
    try:
        await answer(
            host,
            request_id,
            elicitation=server_request_pb2.ElicitationAnswer(action=1, content_json="no"),
        )
    except InvalidArgumentError:
        return True
    except McpServerRequestNotFoundError:
        return False
    raise AssertionError("that was no answer")


async def until_dropped(host: Host, request_id: str) -> None:
    """Wait until a request waits no more."""
    end = time.monotonic() + SOON_S
    while await is_open(host, request_id):
        assert time.monotonic() < end, f"not within {SOON_S} s: the request is dropped"
        await asyncio.sleep(0.01)


def elicitation(message: str = "how many?", **more: Any) -> dict[str, Any]:
    """A request for a person, for the raw server to send."""
    return {"method": "elicitation/create", "params": {"message": message, "requestedSchema": {}} | more}


def asks(*requests: dict[str, Any]) -> dict[str, Any]:
    """The arguments with which the raw server sends requests."""
    return {"requests": list(requests)}


def answers_in(result: tool_pb2.ToolResult) -> list[Any]:
    """What the raw server was answered."""
    return list(json.loads(text(result)).values())
