"""A tool call through the MCP host beside the SDK alone on a kept connection; 50 servers at once."""

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from bench.processes import BenchError, children_of, cpu_s, pin, rss_mib, started
from bench.services import SERVICES, service_environments, tool_server_arguments
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc, tool_pb2

SERVERS = 50
_IN_FLIGHT = 32
_CALL_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Cost:
    """What calls cost whoever makes them."""

    calls_per_s: float
    cpu_ms_per_call: float
    p50_ms: float


class CallStream:
    """Calls over one StreamToolCalls, as the engine makes them."""

    def __init__(self, stub: service_pb2_grpc.McpHostServiceStub) -> None:
        self._rpc: Any = stub.StreamToolCalls()
        self._waiting: dict[int, asyncio.Future[tool_pb2.ToolResult]] = {}
        self._commands: list[service_pb2.ToolCallCommand] = []
        self._wake = asyncio.Event()
        self._last_id = 0

    async def call(self, server: str) -> None:
        """Call echo. Raises BenchError for an answer that is not its."""
        self._last_id += 1
        ref = tool_pb2.ServerRef(name=server)
        call = tool_pb2.ToolCall(server=ref, tool="echo", arguments_json='{"text":"hello"}')
        future = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        self._commands.append(service_pb2.ToolCallCommand(call_id=self._last_id, start=call))
        self._wake.set()
        async with asyncio.timeout(_CALL_TIMEOUT_S):
            result = await future
        if result.is_error or [part.text for part in result.content] != ["hello"]:
            raise BenchError(f"the tool answered {result}")

    async def write(self) -> None:
        """Send what is asked, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            commands, self._commands = self._commands, []
            await self._rpc.write(service_pb2.StreamToolCallsRequest(commands=commands))

    async def read(self) -> None:
        """Take the answers, until cancelled."""
        async for response in self._rpc:
            for update in response.updates:
                waiting = self._waiting.pop(update.call_id)
                if update.WhichOneof("update") == "failure":
                    waiting.set_exception(BenchError(f"a tool call failed: {update.failure}"))
                else:
                    waiting.set_result(update.result)


async def _cost(call: Any, pid: int, seconds: float) -> Cost:
    """Keep calls in flight for some time; what that costs a process."""
    times: list[float] = []
    before, begin = cpu_s(pid), time.perf_counter()

    async def worker() -> None:
        while (start := time.perf_counter()) < begin + seconds:
            await call()
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(worker() for _ in range(_IN_FLIGHT)))
    elapsed = time.perf_counter() - begin
    return Cost(len(times) / elapsed, (cpu_s(pid) - before) / len(times) * 1000, median(times) * 1000)


def _project(folder: Path, core: int | None) -> list[str]:
    stdio = {"command": sys.executable, "args": tool_server_arguments(core)}
    names = [f"echo-{number:02}" for number in range(SERVERS)]
    servers = {name: {"stdio": stdio} for name in ["echo", *names]}
    (folder / "retinue.yaml").write_text(json.dumps({"mcp_servers": servers}))
    return names


async def measure_host(*, rounds: int, seconds: float) -> dict[str, float]:
    """Medians over rounds, host and SDK by turns, 32 calls in flight on one connection each."""
    measured, rest = pin()
    async with AsyncExitStack() as stack:
        processes = stack.enter_context(ExitStack())
        folder = Path(processes.enter_context(TemporaryDirectory(prefix="retinue-bench-")))
        names = _project(folder, rest)
        environments = service_environments(folder)
        services = {}
        # One after the other: the host asks the registry for what it is called for.
        for name, core in (("registry", rest), ("host", measured)):
            services[name] = processes.enter_context(
                started(name, ["-m", SERVICES[name]], core=core, environment=environments[name], cwd=folder)
            )
            services[name].read_first_line()
        host = services["host"]
        address = json.loads(host.first_line)["address"]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        stream = CallStream(service_pb2_grpc.McpHostServiceStub(channel))
        for coroutine in (stream.write(), stream.read()):
            stack.callback(asyncio.create_task(coroutine).cancel)
        sdk = await _open_sdk(stack, rest)
        await stream.call("echo")
        await sdk.call_tool("echo", {"text": "hello"})
        through, alone = [], []
        for _ in range(rounds):
            through.append(await _cost(lambda: stream.call("echo"), host.pid, seconds))
            alone.append(await _cost(lambda: sdk.call_tool("echo", {"text": "hello"}), os.getpid(), seconds))
        ratios = [
            ours.cpu_ms_per_call / bare.cpu_ms_per_call for ours, bare in zip(through, alone, strict=True)
        ]
        return {
            "calls/s through the host": median(each.calls_per_s for each in through),
            "calls/s, SDK": median(each.calls_per_s for each in alone),
            "p50 through the host, ms": median(each.p50_ms for each in through),
            "p50, SDK, ms": median(each.p50_ms for each in alone),
            "CPU of the host per call, ms": median(each.cpu_ms_per_call for each in through),
            "CPU per call, SDK alone in its caller, ms": median(each.cpu_ms_per_call for each in alone),
            "CPU ratio host/SDK": median(ratios),
            **await _connect_all(stream, names, host.pid),
        }


async def _open_sdk(stack: AsyncExitStack, core: int | None) -> ClientSession:
    parameters = StdioServerParameters(command=sys.executable, args=tool_server_arguments(core))
    read, write = await stack.enter_async_context(stdio_client(parameters))
    session = await stack.enter_async_context(ClientSession(read, write))
    await session.initialize()
    await session.list_tools()
    return session


async def _connect_all(stream: CallStream, names: list[str], host_pid: int) -> dict[str, float]:
    start = time.perf_counter()
    # Two callers of each at the same moment: each server is still started once.
    await asyncio.gather(*(stream.call(name) for name in names for _ in range(2)))
    elapsed = time.perf_counter() - start
    if (children := len(children_of(host_pid))) != SERVERS + 1:
        raise BenchError(f"the host has {children} servers instead of {SERVERS + 1}")
    return {
        f"{SERVERS} stdio servers connected at once and called, s": elapsed,
        "host's memory then, MiB": rss_mib(host_pid),
    }
