"""The floor: a bare gRPC server with aiohttp (or litellm) and the MCP SDK, nothing else.

The same rpc, the same events and the same work for the model and the tool as Retinue, written as well as one
would write it by hand, and without all that Retinue is for: no store, no registry, no host, no limits.
The first line of output is the port.
"""

import argparse
import asyncio
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import orjson
import uvloop
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from bench.floor_model import Answer, Model, open_model
from retinue.engine.v1 import event_pb2, run_pb2, service_pb2, service_pb2_grpc

_SYSTEM = {"role": "system", "content": "You are terse."}


class Run:
    """One run: its conversation, and its events until they are sent."""

    def __init__(self, message: str) -> None:
        self.run_id = f"run-{secrets.token_hex(12)}"
        self.messages: list[dict[str, Any]] = [_SYSTEM, {"role": "user", "content": message}]
        self._sequence = 0
        self._events: list[event_pb2.RunEvent] = []

    def emit(self, path: str, **what: Any) -> None:
        """Make an event."""
        self._sequence += 1
        event = event_pb2.RunEvent(run_id=self.run_id, sequence=self._sequence, path=path, **what)
        event.time.seconds, event.time.nanos = divmod(time.time_ns(), 1_000_000_000)
        self._events.append(event)

    def taken(self) -> service_pb2.StreamRunResponse:
        """The events that wait, as one response."""
        events, self._events = self._events, []
        return service_pb2.StreamRunResponse(events=events, through_sequence=self._sequence)


class Floor(service_pb2_grpc.RunServiceServicer):
    """StreamRun, and nothing else."""

    def __init__(self, model: Model, tools: ClientSession) -> None:
        self._model = model
        self._tools = tools
        self._functions: list[dict[str, Any]] = []

    async def list_tools(self) -> None:
        """Ask the server for its tools, once."""
        for tool in (await self._tools.list_tools()).tools:
            function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
            self._functions.append({"type": "function", "function": function})

    async def StreamRun(  # noqa: N802 - gRPC's name
        self, request: service_pb2.StreamRunRequest, _context: Any
    ) -> AsyncIterator[service_pb2.StreamRunResponse]:
        """Run an agent: ask, call, ask."""
        target = request.run.target.name
        run = Run(request.run.message)
        run.emit("", run_started=event_pb2.RunStarted(message=request.run.message))
        turn = 1
        while True:
            path = f"turn:{turn}"
            run.emit(path, turn_started=event_pb2.TurnStarted(turn=turn, llm="model", model="fake"))
            yield run.taken()
            answer = Answer()
            tools = self._functions if target != "text" else []
            async for text in self._model.ask(target, {"messages": run.messages, "tools": tools}, answer):
                run.emit(path, text_delta=event_pb2.TextDelta(text=text))
                yield run.taken()
            message = event_pb2.MessageCompleted(text=answer.text, finish_reason=answer.finish_reason)
            message.usage.input_tokens = answer.usage["prompt_tokens"]
            message.usage.output_tokens = answer.usage["completion_tokens"]
            if not answer.name:
                break
            message.tool_calls.add(call_id=answer.call_id, name=answer.name, arguments_json=answer.arguments)
            run.emit(path, message_completed=message)
            run.emit(
                path,
                tool_call_started=event_pb2.ToolCallStarted(
                    call_id=answer.call_id, tool=answer.name, arguments_json=answer.arguments
                ),
            )
            yield run.taken()
            await self._call(run, path, answer)
            turn += 1
        run.emit(path, message_completed=message)
        result = run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED, output=answer.text, turns=turn)
        run.emit("", run_finished=event_pb2.RunFinished(result=result))
        yield run.taken()

    async def _call(self, run: Run, path: str, answer: Answer) -> None:
        result = await self._tools.call_tool(answer.name, orjson.loads(answer.arguments))
        text = "\n".join(part.text for part in result.content if part.type == "text")
        outcome = event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
        completed = event_pb2.ToolCallCompleted(call_id=answer.call_id, outcome=outcome, text=text)
        run.emit(path, tool_call_completed=completed)
        function = {"name": answer.name, "arguments": answer.arguments}
        call = {"id": answer.call_id, "type": "function", "function": function}
        run.messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        run.messages.append({"role": "tool", "tool_call_id": answer.call_id, "content": text})


async def _serve(url: str, transport: str, tool_server: list[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(open_model(url, transport))
        parameters = StdioServerParameters(command=sys.executable, args=tool_server)
        read, write = await stack.enter_async_context(stdio_client(parameters))
        tools = await stack.enter_async_context(ClientSession(read, write))
        await tools.initialize()
        floor = Floor(model, tools)
        await floor.list_tools()
        server = grpc.aio.server()
        service_pb2_grpc.add_RunServiceServicer_to_server(floor, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        await stop.wait()
        await server.stop(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="address of the fake model, http://host:port")
    parser.add_argument("--transport", choices=["direct", "litellm"], default="direct")
    parser.add_argument("tool_server", nargs="+", help="arguments of Python for the tool server")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.model, arguments.transport, arguments.tool_server))
