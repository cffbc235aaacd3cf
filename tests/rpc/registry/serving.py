"""What the registry's rpc tests are made of: a real server in this process, or a process of its own."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from retinue.client import Components, open_client
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2, mcp_server_pb2
from retinue_kit.server import open_server
from retinue_registry.app import open_app
from retinue_registry.settings import RegistrySettings

LLM = component_pb2.COMPONENT_KIND_LLM
MCP_SERVER = component_pb2.COMPONENT_KIND_MCP_SERVER
AGENT = component_pb2.COMPONENT_KIND_AGENT
ANY = component_pb2.COMPONENT_KIND_UNSPECIFIED

BOUND_S = 20.0
"""For anything that a test waits for."""


@asynccontextmanager
async def serving(root: Path, *, namespace: str = "default", **changes: Any) -> AsyncIterator[Components]:
    """Serve the project in a folder, which gets an empty anchor where it has none; yield a client of it."""
    anchor = root / "retinue.yaml"
    if not anchor.exists():
        anchor.write_text("")
    given: dict[str, Any] = {
        "address": "127.0.0.1:0",
        "metrics_address": "",
        "project": root,
        "user_dir": "",
        "stop_grace_s": 1.0,
    }
    settings = RegistrySettings(**(given | changes))
    async with (
        open_server(settings, open_app) as served,
        open_client(registry=served.address, namespace=namespace) as client,
    ):
        yield client.components


class Process:
    """The registry as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.process = process
        self.address = address

    async def kill(self) -> None:
        """Kill it as the kernel would: nothing is closed."""
        self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def process(root: Path, *under: str, **environment: str) -> AsyncIterator[Process]:
    """Start the registry's process on the project in a folder, and kill it at the end.

    `under` is a command that becomes the one that is named after it.
    """
    (root / "retinue.yaml").touch()
    started = await asyncio.create_subprocess_exec(
        *under,
        sys.executable,
        "-m",
        "retinue_registry",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("RETINUE_")},
            "RETINUE_PROJECT": str(root),
            "RETINUE_USER_DIR": "",
            "RETINUE_REGISTRY_ADDRESS": "127.0.0.1:0",
            "RETINUE_REGISTRY_METRICS_ADDRESS": "",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert started.stdout is not None
        async with asyncio.timeout(BOUND_S):
            ready = json.loads(await started.stdout.readline())
        yield Process(started, ready["address"])
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


def llm(name: str, model: str = "m", **fields: Any) -> component_pb2.Component:
    """An llm."""
    return component_pb2.Component(kind=LLM, name=name, llm=llm_pb2.LlmSpec(model=model), **fields)


def agent(name: str, uses: str = "fast", **spec: Any) -> component_pb2.Component:
    """An agent that uses an llm."""
    return component_pb2.Component(kind=AGENT, name=name, agent=agent_pb2.AgentSpec(llm=uses, **spec))


def stdio(command: str, **fields: Any) -> mcp_server_pb2.McpServerSpec:
    """The spec of an MCP server that is a process."""
    return mcp_server_pb2.McpServerSpec(stdio=mcp_server_pb2.StdioTransport(command=command, **fields))


def server(name: str) -> component_pb2.Component:
    """An MCP server."""
    return component_pb2.Component(kind=MCP_SERVER, name=name, mcp_server=stdio("python"))
