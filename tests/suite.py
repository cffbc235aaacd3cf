"""The services for tests: in this process on free ports, or as processes that can be killed."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from retinue.client import Access, Client, open_client
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2, service_pb2_grpc
from retinue_cli.scripted_model.script import Script
from retinue_cli.scripted_model.server import _ScriptedModel
from retinue_engine.app import open_app as open_engine
from retinue_engine.settings import EngineSettings
from retinue_kit.server import open_server
from retinue_mcp_host.app import open_app as open_mcp_host
from retinue_mcp_host.settings import McpHostSettings
from retinue_registry.app import open_app as open_registry
from retinue_registry.settings import RegistrySettings
from tests.servers.forked import Forked, start_forked

SOON_S = 10.0
"""Ten times and more what anything here takes."""

START_S = 30.0
"""For a process on a busy machine."""

TOOL_SERVER = Path(__file__).parent / "rpc" / "engine" / "tool_server.py"
"""An MCP server whose tools write down what happens to them."""

FINAL = frozenset({run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED})


async def until(condition: Callable[[], Any], what: str, within_s: float = SOON_S) -> Any:
    """Wait until a condition holds, and return what it gave; it may be a coroutine function."""
    end = time.monotonic() + within_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)


def lines(path: Path) -> list[dict[str, Any]]:
    """What was written into a file of JSON lines; a last line that is cut is not counted."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


class Model:
    """The scripted model, with what it was asked and what became of it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        """Every request's body, in order."""
        self.times: list[float] = []
        """When each of them came, in seconds since 1970."""
        self.headers: list[Mapping[str, str]] = []
        self.answered: list[dict[str, Any]] = []
        """The bodies of the requests that were answered to the last byte."""
        self.broken: list[dict[str, Any]] = []
        """The bodies of the requests whose caller went away."""
        self.base_url = ""

    @web.middleware
    async def _watch(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.times.append(time.time())
        self.headers.append(dict(request.headers))
        try:
            response: web.StreamResponse = await handler(request)
        except (asyncio.CancelledError, ConnectionError):
            self.broken.append(body)
            raise
        self.answered.append(body)
        return response

    @asynccontextmanager
    async def open(self, script: Mapping[str, Any], port: int = 0) -> AsyncIterator["Model"]:
        """Serve a script."""
        app = _ScriptedModel(Script.model_validate(dict(script))).app()
        app.middlewares.append(self._watch)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            await runner.cleanup()


def stdio_server(folder: Path, **more: Any) -> dict[str, Any]:
    """The config of a tool server that writes into a folder."""
    return {
        "stdio": {
            "command": sys.executable,
            "args": ["-S", str(TOOL_SERVER)],
            "env": {"FOLDER": str(folder)},
        },
        **more,
    }


def write_project(
    folder: Path,
    base_url: str,
    *,
    agents: Mapping[str, Any] | None = None,
    llms: Mapping[str, Any] | None = None,
    mcp_servers: Mapping[str, Any] | None = None,
    linear_workflows: Mapping[str, Any] | None = None,
    graph_workflows: Mapping[str, Any] | None = None,
    custom_workflows: Mapping[str, Any] | None = None,
) -> None:
    """A project: an llm `m` at `base_url`, and an agent `a` that thinks with it, beside what is given."""
    # What fails, fails at once; tests of retries set their own number.
    llm = {"model": "scripted", "protocol": "openai_chat", "base_url": base_url, "max_retries": 0}
    more = {name: {**llm, **spec} for name, spec in (llms or {}).items()}
    project: dict[str, Any] = {"llms": {"m": llm, **more}}
    project["agents"] = {
        name: {"llm": "m", **spec} for name, spec in ({"a": {}} | dict(agents or {})).items()
    }
    if mcp_servers:
        project["mcp_servers"] = dict(mcp_servers)
    if linear_workflows:
        project["linear_workflows"] = dict(linear_workflows)
    if graph_workflows:
        project["graph_workflows"] = dict(graph_workflows)
    if custom_workflows:
        project["custom_workflows"] = dict(custom_workflows)
    (folder / "retinue.yaml").write_text(yaml.dump(project, Dumper=yaml.CSafeDumper))


@dataclass
class Suite:
    """Services that run, and what tests do with them."""

    folder: Path
    model: Model
    client: Client
    engine: str
    """The engine's address."""
    registry: str
    mcp_host: str
    runs: service_pb2_grpc.RunServiceStub = field(repr=False)
    """For what the client does not show."""
    sessions: service_pb2_grpc.SessionServiceStub = field(repr=False)

    def notes(self, name: str = "effects") -> list[dict[str, Any]]:
        """What the tool server wrote down."""
        return lines(self.folder / name)

    async def story(self, agent: str = "a", message: str = "hi", **more: Any) -> list[event_pb2.RunEvent]:
        """Run an agent and return all events."""
        return [event async for event in self.client.runs.stream(agent, message, **more)]

    async def result(self, agent: str = "a", message: str = "hi", **more: Any) -> run_pb2.RunResult:
        """Run an agent and return its result."""
        return (await self.story(agent, message, **more))[-1].run_finished.result

    async def watched(self, run_id: str, after: int = 0) -> list[event_pb2.RunEvent]:
        """The events of a run after one, to its end."""
        return [event async for event in self.client.runs.watch(run_id, after_sequence=after)]

    async def ended(self, run_id: str, within_s: float = SOON_S) -> run_pb2.Run:
        """Wait until a run has ended, and return it."""

        async def final() -> run_pb2.Run | None:
            run = await self.client.runs.get(run_id)
            return run if run.state in FINAL else None

        run: run_pb2.Run = await until(final, f"{run_id} ends", within_s)
        return run

    async def asked(self, run_id: str, count: int = 1) -> list[input_pb2.InputRequest]:
        """Wait until a run's tree waits for so many answers, and return the requests, the oldest first."""
        found: list[input_pb2.InputRequest] = []

        async def pending() -> bool:
            found[:] = [each async for each in self.client.inputs.list(run_id)][::-1]
            return len(found) == count

        await until(pending, f"{run_id} waits for {count} answers")
        return found

    async def reaches(self, run_id: str, state: run_pb2.RunState.ValueType) -> run_pb2.Run:
        """Wait until a run is in a state, and return it."""

        async def there() -> run_pb2.Run | None:
            run = await self.client.runs.get(run_id)
            return run if run.state == state else None

        run: run_pb2.Run = await until(there, f"{run_id} is {run_pb2.RunState.Name(state)}")
        return run

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        """A session's messages."""
        return [json.loads(each.message_json) async for each in self.client.sessions.messages(session_id)]


def kinds(events: list[event_pb2.RunEvent]) -> list[str | None]:
    """What the events are, texts that follow one another as one: how they are cut is chance."""
    found = [event.WhichOneof("event") for event in events]
    return [
        kind for at, kind in enumerate(found) if not (at and kind == "text_delta" and found[at - 1] == kind)
    ]


def check_story(events: list[event_pb2.RunEvent]) -> None:
    """Assert what holds of every story that has ended."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].WhichOneof("event") == "run_started"
    ends = [event.sequence for event in events if event.WhichOneof("event") == "run_finished"]
    assert ends == [len(events)]
    assert len({event.run_id for event in events}) == 1
    text = ""
    for event in events:
        kind = event.WhichOneof("event")
        if kind in ("turn_started", "message_discarded"):
            text = ""
        elif kind == "text_delta":
            text += event.text_delta.text
        elif kind == "message_completed":
            assert event.message_completed.text == text


def check_tree(events: list[event_pb2.RunEvent]) -> None:
    """Assert what holds of every story of a run with runs inside it that has ended."""
    root = [event for event in events if event.run_id == events[0].run_id]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert root[0] is events[0]
    assert root[-1] is events[-1]
    assert kinds(root)[0] == "run_started"
    assert kinds(root).count("run_finished") == 1
    assert kinds(root)[-1] == "run_finished"
    for run_id in {event.run_id for event in events} - {events[0].run_id}:
        own = [event for event in events if event.run_id == run_id]
        assert (kinds(own)[0], kinds(own)[-1]) == ("child_run_started", "child_run_finished")
        assert kinds(own).count("child_run_started") == kinds(own).count("child_run_finished") == 1
        place = own[0].path
        assert own[-1].path == place
        assert all(event.path == place or event.path.startswith(f"{place}/turn:") for event in own)
        # The runs inside it end before it does.
        below = [event for event in events if event.path.startswith(f"{place}/")]
        assert all(event.sequence < own[-1].sequence for event in below)


@asynccontextmanager
async def open_suite(
    folder: Path,
    script: Mapping[str, Any] | None = None,
    *,
    agents: Mapping[str, Any] | None = None,
    llms: Mapping[str, Any] | None = None,
    mcp_servers: Mapping[str, Any] | None = None,
    linear_workflows: Mapping[str, Any] | None = None,
    graph_workflows: Mapping[str, Any] | None = None,
    custom_workflows: Mapping[str, Any] | None = None,
    host_address: str | None = None,
    **settings: Any,
) -> AsyncIterator[Suite]:
    """Open registry, engine and scripted model in this process; the MCP host where there are servers.

    `host_address` is that of a host of the test's own.
    """
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        model = await enter(Model().open(script or {"default": {"text": "hello world", "chunk_size": 5}}))
        write_project(
            folder,
            model.base_url,
            agents=agents,
            llms=llms,
            mcp_servers=mcp_servers,
            linear_workflows=linear_workflows,
            graph_workflows=graph_workflows,
            custom_workflows=custom_workflows,
        )
        common: dict[str, Any] = {"address": "127.0.0.1:0", "metrics_address": "", "stop_grace_s": 0.5}
        registry = await enter(
            open_server(
                RegistrySettings(**common, project=folder, data_dir=folder / "registry"), open_registry
            )
        )
        if not mcp_servers:
            host_address = "127.0.0.1:1"
        elif host_address is None:
            chosen = McpHostSettings(**common, registry_address=registry.address)
            host_address = (await enter(open_server(chosen, open_mcp_host))).address
        engine_settings = EngineSettings(
            **common | {"data_dir": folder / "engine"} | settings,
            registry_address=registry.address,
            mcp_host_address=host_address,
        )
        engine = await enter(open_server(engine_settings, open_engine))
        yield await enter(_open_view(folder, model, engine.address, registry.address, host_address))


@asynccontextmanager
async def _open_view(
    folder: Path, model: Model, engine: str, registry: str, mcp_host: str
) -> AsyncIterator[Suite]:
    async with open_client(engine, registry=registry, mcp_host=mcp_host, access=Access()) as client:
        channel = client.runs._channel.channel
        yield Suite(
            folder,
            model,
            client,
            engine,
            registry,
            mcp_host,
            service_pb2_grpc.RunServiceStub(channel),
            service_pb2_grpc.SessionServiceStub(channel),
        )


class Process:
    """A service as a process of its own, that may be killed and started again at the same address."""

    def __init__(self, module: str, folder: Path, env: Mapping[str, str]) -> None:
        self.module = module
        self.log = folder / f"{module}.log"
        self._env = dict(env)
        self.address = ""
        self.running: Forked | None = None

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        passed = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH") if name in os.environ}
        own = passed | {"RETINUE_USER_DIR": ""} | self._env
        if self.address:
            service = self.module.removeprefix("retinue_").upper()
            own[f"RETINUE_{service}_ADDRESS"] = self.address
        async with asyncio.timeout(START_S):
            self.running = await start_forked(self.module, own, self.log)
        ready = self.running.ready
        assert ready, f"{self.module} did not start:\n{self.log.read_text()[-2000:]}"
        self.address = json.loads(ready)["address"]

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end; the exit status."""
        assert self.running is not None
        if self.running.returncode is None:
            self.running.send_signal(number)
        async with asyncio.timeout(START_S):
            return await self.running.wait()

    async def aclose(self) -> None:
        """End it if it runs."""
        if self.running is not None and self.running.returncode is None:
            await self.kill()


@dataclass
class Processes(Suite):
    """A suite whose MCP host and engine are processes."""

    engine_process: Process = field(kw_only=True)
    host_process: Process = field(kw_only=True)


@asynccontextmanager
async def open_processes(
    folder: Path,
    script: Mapping[str, Any],
    *,
    env: Mapping[str, str] | None = None,
    **project: Any,
) -> AsyncIterator[Processes]:
    """Open registry and scripted model in this process, MCP host and engine as processes."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        model = await enter(Model().open(script))
        write_project(folder, model.base_url, **project)
        registry = await enter(
            open_server(
                RegistrySettings(
                    address="127.0.0.1:0",
                    metrics_address="",
                    stop_grace_s=0.5,
                    project=folder,
                    data_dir=folder / "registry",
                ),
                open_registry,
            )
        )
        common = {
            "RETINUE_REGISTRY_ADDRESS": registry.address,
            "RETINUE_LOG_FORMAT": "text",
            "RETINUE_MCP_HOST_METRICS_ADDRESS": "",
            "RETINUE_ENGINE_METRICS_ADDRESS": "",
            **(env or {}),
        }
        host = Process("retinue_mcp_host", folder, {"RETINUE_MCP_HOST_ADDRESS": "127.0.0.1:0", **common})
        stack.push_async_callback(host.aclose)
        await host.start()
        engine = Process(
            "retinue_engine",
            folder,
            {
                "RETINUE_ENGINE_ADDRESS": "127.0.0.1:0",
                "RETINUE_DATA_DIR": str(folder / "engine"),
                **common,
                "RETINUE_MCP_HOST_ADDRESS": host.address,
            },
        )
        stack.push_async_callback(engine.aclose)
        await engine.start()
        view = await enter(_open_view(folder, model, engine.address, registry.address, host.address))
        yield Processes(**view.__dict__, engine_process=engine, host_process=host)
