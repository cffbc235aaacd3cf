"""The MCP host as a process: how it starts and what is left after it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from retinue.client import Access, open_channel
from retinue.registry.v1 import service_pb2_grpc as registry_grpc

from .hosting import Host, Registry, alive, until


@pytest.fixture
async def process(registry: Registry) -> AsyncIterator[Any]:
    """A host in a process of its own, and its first line."""
    server = grpc.aio.server()
    registry_grpc.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    environment = os.environ | {
        "RETINUE_MCP_HOST_ADDRESS": "127.0.0.1:0",
        "RETINUE_MCP_HOST_METRICS_ADDRESS": "",
        "RETINUE_REGISTRY_ADDRESS": f"127.0.0.1:{port}",
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "retinue_mcp_host",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        assert started.stdout is not None
        async with asyncio.timeout(20):
            yield started, json.loads(await started.stdout.readline())
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        await server.stop(0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_process_behind(
    process: Any, registry: Registry, tmp_path: Path, number: signal.Signals
) -> None:
    started, ready = process
    async with open_channel("MCP host", ready["address"], Access()) as channel:
        host = Host(registry, channel, tmp_path)
        host.stdio("parent", "raw_server.py", "parent", "escapes")
        host.stdio("stubborn", "raw_server.py", "stubborn")
        host.stdio("mute", "raw_server.py", "mute")
        await asyncio.gather(host.call("parent", "echo"), host.call("stubborn", "echo"))
        stream = host.stub.StreamToolCalls()
        await stream.read()
        waiting = [asyncio.ensure_future(host.call(name, "hang")) for name in ("parent", "mute")]
        await until(lambda: len(host.pids()) == 3, "all servers are started")
        begin = time.monotonic()
        started.send_signal(number)
        assert await started.wait() == 0
        assert time.monotonic() - begin < 15
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert not any(map(alive, host.pids() + host.pids("children")))


async def test_the_process_says_where_it_is_ready(process: Any) -> None:
    _, ready = process
    assert ready["ready"] == "mcp-host"
    assert ready["address"].startswith("127.0.0.1:")
