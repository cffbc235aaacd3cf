"""MCP servers that others have published, through a host process: from Python, the CLI and Node."""

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import pytest

from retinue.client import Access, Client, open_client
from retinue.mcphost.v1 import server_request_pb2, tool_pb2
from retinue.registry.v1 import mcp_server_pb2
from retinue.registry.v1 import service_pb2_grpc as registry_grpc
from tests.rpc.mcp_host.hosting import Registry
from tests.suite import Process

ROOT = Path(__file__).resolve().parents[2]
NODE_SERVERS = ROOT / ".tools" / "mcp-servers" / "node_modules" / ".bin"
BIN = Path(sys.executable).parent
PATH = f"{BIN}{os.pathsep}{os.environ['PATH']}"
BOUND_S = 60.0
"""Ten times and more what anything here takes."""

pytestmark = pytest.mark.timeout(180)


@dataclass
class Hosted:
    """A host process, and who calls it."""

    client: Client
    address: str
    folder: Path

    async def call(self, server: str, tool: str, **arguments: object) -> str:
        """Call a tool and return its first text."""
        *_, last = [update async for update in self.client.tools.call(server, tool, json.dumps(arguments))]
        assert not last.result.is_error, last.result
        return last.result.content[0].text

    async def names(self, server: str) -> set[str]:
        """The names of a server's tools."""
        tools, failures = await self.client.tools.list([tool_pb2.ServerRef(name=server)])
        assert not failures
        return {tool.name for tool in tools}

    async def program(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What a program prints that asks this host; it must succeed."""
        env = os.environ | {"PATH": PATH, "RETINUE_MCP_HOST_ADDRESS": self.address}
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd or self.folder,
            env=env | {"RETINUE_PROTOS": str(ROOT / "protos")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(BOUND_S):
            out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        return out.decode()


def stdio(command: str | Path, *args: str | Path, **env: str) -> mcp_server_pb2.McpServerSpec:
    transport = mcp_server_pb2.StdioTransport(command=str(command), args=[str(arg) for arg in args], env=env)
    return mcp_server_pb2.McpServerSpec(stdio=transport)


@asynccontextmanager
async def hosted(folder: Path) -> AsyncIterator[Hosted]:
    """A registry that knows the published servers, and a host process."""
    if not NODE_SERVERS.is_dir():
        pytest.fail("needs published MCP servers: run `make test`, or `make .tools/mcp-servers/.installed`")
    registry = Registry()
    registry.put("everything", stdio(NODE_SERVERS / "mcp-server-everything"))
    registry.put("files", stdio(NODE_SERVERS / "mcp-server-filesystem", folder))
    registry.put(
        "memory", stdio(NODE_SERVERS / "mcp-server-memory", MEMORY_FILE_PATH=str(folder / "memory.jsonl"))
    )
    registry.put("time", stdio("mcp-server-time", "--local-timezone", "UTC"))
    registry.put("git", stdio("mcp-server-git"))
    server = grpc.aio.server()
    registry_grpc.add_RegistryServiceServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    env = {
        "PATH": PATH,
        "RETINUE_REGISTRY_ADDRESS": f"127.0.0.1:{port}",
        "RETINUE_MCP_HOST_ADDRESS": "127.0.0.1:0",
        "RETINUE_MCP_HOST_METRICS_ADDRESS": "",
        "RETINUE_LOG_FORMAT": "text",
    }
    host = Process("retinue_mcp_host", folder, env)
    try:
        await host.start()
        async with open_client("127.0.0.1:1", mcp_host=host.address, access=Access()) as client:
            yield Hosted(client, host.address, folder)
    finally:
        await host.aclose()
        await server.stop(0)


async def everything(host: Hosted) -> None:
    contents = host.client.contents
    assert {"echo", "get-sum", "trigger-long-running-operation"} <= await host.names("everything")
    assert await host.call("everything", "echo", message="hé") == "Echo: hé"
    *progress, last = [
        update.progress.progress
        async for update in host.client.tools.call(
            "everything", "trigger-long-running-operation", '{"duration": 0.2, "steps": 4}'
        )
    ]
    assert (progress, last) == ([1, 2, 3, 4], 0)
    *_, structured = [
        update
        async for update in host.client.tools.call(
            "everything", "get-structured-content", '{"location": "New York"}'
        )
    ]
    assert "temperature" in json.loads(structured.result.structured_json)
    uris = [each.uri async for each in contents.resources("everything")]
    features = next(uri for uri in uris if uri.endswith("features.md"))
    assert "Everything" in (await contents.read("everything", features))[0].text
    assert "demo://resource/dynamic/text/{resourceId}" in [
        each.uri_template async for each in contents.templates("everything")
    ]
    watch = contents.watch("everything", "demo://resource/dynamic/text/1")
    assert await anext(watch) == ""
    await watch.aclose()
    assert "args-prompt" in [each.name async for each in contents.prompts("everything")]
    prompt = await contents.prompt("everything", "args-prompt", {"city": "Oslo"})
    assert "Oslo" in prompt.messages[0].content.text
    found = await contents.complete("everything", "department", "Eng", prompt="completable-prompt")
    assert list(found.values) == ["Engineering"]
    asked = ""
    decline = server_request_pb2.ElicitationAnswer(action=server_request_pb2.ELICITATION_ACTION_DECLINE)
    async for update in host.client.tools.call(
        "everything", "trigger-elicitation-request", accepts_elicitation=True
    ):
        if update.HasField("request"):
            asked = update.request.elicitation.message
            await host.client.tools.answer(update.request.request_id, decline)
    assert asked
    assert "declined" in update.result.content[0].text


async def files(host: Hosted) -> None:
    path = host.folder / "a.txt"
    assert {"read_text_file", "write_file"} <= await host.names("files")
    await host.call("files", "write_file", path=str(path), content="hé\n")
    assert path.read_text() == "hé\n"
    assert "a.txt" in await host.call("files", "list_directory", path=str(host.folder))


async def memory(host: Hosted) -> None:
    entity = {"name": "Ann", "entityType": "person", "observations": ["likes tea"]}
    await host.call("memory", "create_entities", entities=[entity])
    assert "likes tea" in await host.call("memory", "search_nodes", query="Ann")
    (resource,) = [each async for each in host.client.contents.resources("memory")]
    assert "Ann" in (await host.client.contents.read("memory", resource.uri))[0].text


async def clock(host: Hosted) -> None:
    assert await host.names("time") == {"get_current_time", "convert_time"}
    assert "Asia/Tokyo" in await host.call("time", "get_current_time", timezone="Asia/Tokyo")


async def git(host: Hosted) -> None:
    repository = host.folder / "repository"
    await host.program("git", "init", "-q", repository)
    assert {"git_status", "git_log"} <= await host.names("git")
    assert "No commits yet" in await host.call("git", "git_status", repo_path=str(repository))


async def command_line(host: Hosted) -> None:
    read = await host.program(BIN / "retinue", "resources", "memory")
    assert "memory://knowledge-graph" in read
    templates = json.loads(await host.program(BIN / "retinue", "--json", "resources", "everything"))[
        "templates"
    ]
    assert len(templates) == 2
    shown = await host.program(BIN / "retinue", "prompts", "everything")
    assert "args-prompt(city, state?)" in shown
    filled = await host.program(BIN / "retinue", "prompts", "everything", "args-prompt", "--arg", "city=Oslo")
    assert "Oslo" in filled
    document = "demo://resource/static/document/features.md"
    assert "Everything" in await host.program(BIN / "retinue", "resources", "everything", document)


async def node(host: Hosted) -> None:
    client = host.folder / "node"
    shutil.copytree(ROOT / "clients" / "node", client, ignore=shutil.ignore_patterns("node_modules"))
    await host.program(BIN / "npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=client)
    path = host.folder / "b.txt"
    path.write_text("from a file\n")
    argv = ("files", "read_text_file", json.dumps({"path": str(path)}))
    assert await host.program(BIN / "node", "call_tool.js", *argv, cwd=client) == "from a file\n\n"
    argv = ("everything", "trigger-long-running-operation", '{"duration": 0.1, "steps": 2}')
    shown = (await host.program(BIN / "node", "call_tool.js", *argv, cwd=client)).splitlines()
    assert shown[:2] == ["1 of 2", "2 of 2"]
    assert "completed" in shown[2]


async def test_published_servers_work_from_python_the_cli_and_node(tmp_path: Path) -> None:
    async with hosted(tmp_path) as host, asyncio.TaskGroup() as tasks:
        for use in (everything, files, memory, clock, git, node, command_line):
            tasks.create_task(use(host))
