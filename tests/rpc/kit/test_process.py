"""A service as a process: how it starts, what it says when it cannot, how it stops."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from retinue.client import Access, open_channel
from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_engine.__main__ import main
from retinue_engine.settings import EngineSettings
from retinue_kit.variables import VARIABLES
from retinue_mcp_host.settings import McpHostSettings
from retinue_registry.settings import RegistrySettings
from tests.certificates import make_certificate
from tests.rpc.kit.conftest import Service

StartService = Callable[..., Awaitable[Service]]


async def test_it_says_once_on_stdout_that_it_is_ready_and_is_healthy_then(start: StartService) -> None:
    service = await start(RETINUE_ENGINE_METRICS_ADDRESS="127.0.0.1:0")
    ready = json.loads(service.ready)
    assert (ready["ready"], ready["pid"]) == ("engine", service.process.pid)
    async with grpc.aio.insecure_channel(ready["address"]) as channel:
        for name in ("", "retinue.engine.v1.RunService", "retinue.engine.v1.SessionService"):
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name)
            )
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{ready['metrics_address']}/metrics") as response,
    ):
        text = await response.text()
    assert 'retinue_grpc_calls_total{code="OK",method="/grpc.health.v1.Health/Check"} 3.0' in text
    service.process.send_signal(signal.SIGTERM)
    out, _ = await service.output()
    assert (service.process.returncode, out) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_with_streams_open_and_tells_their_callers(
    start: StartService, number: int
) -> None:
    service = await start(
        "retinue_registry", RETINUE_REGISTRY_ADDRESS="127.0.0.1:0", RETINUE_REGISTRY_METRICS_ADDRESS=""
    )
    address = json.loads(service.ready)["address"]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.RegistryServiceStub(channel)
        calls = [stub.WatchComponents(service_pb2.WatchComponentsRequest()) for _ in range(5)]
        for call in calls:
            await call.read()
        began = time.monotonic()
        service.process.send_signal(number)
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as broken:
                await call.read()
            assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "stopping" in (broken.value.details() or "")
        _, err = await service.output()
    assert service.process.returncode == 0
    assert time.monotonic() - began < 8
    assert "Traceback" not in err


async def test_the_end_of_stdin_stops_it_where_that_is_asked_for(start: StartService) -> None:
    service = await start(RETINUE_STOP_ON_STDIN_EOF="1")
    assert service.process.stdin is not None
    service.process.stdin.close()
    _, err = await service.output()
    assert service.process.returncode == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"])
def test_a_stdin_without_an_end_to_wait_for_is_said_at_the_start(tmp_path: Path, stdin: str) -> None:
    environment = {**os.environ, "RETINUE_STOP_ON_STDIN_EOF": "1", "RETINUE_DATA_DIR": str(tmp_path)}
    command = ["sh", "-c", f'exec "$0" -m retinue_engine {stdin}', sys.executable]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("engine: RETINUE_STOP_ON_STDIN_EOF: standard input is closed, a file or")
    assert len(ended.stderr.splitlines()) == 1


async def test_a_second_signal_ends_it_at_once(start: StartService, tmp_path: Path) -> None:
    app = tmp_path / "slow_app.py"
    app.write_text(
        "import asyncio, sys\n"
        "from contextlib import asynccontextmanager\n"
        "from retinue_kit.server import run_service\n"
        "from retinue_engine.settings import EngineSettings\n"
        "@asynccontextmanager\n"
        "async def open_app(settings):\n"
        "    yield []\n"
        "    sys.stderr.write('closing\\n')\n"
        "    sys.stderr.flush()\n"
        "    await asyncio.sleep(60)\n"
        "sys.exit(run_service(EngineSettings, 'engine', open_app))\n"
    )
    service = await start("slow_app", PYTHONPATH=str(tmp_path))
    assert service.process.stderr is not None
    service.process.send_signal(signal.SIGTERM)
    while await service.process.stderr.readline() != b"closing\n":
        pass
    began = time.monotonic()
    service.process.send_signal(signal.SIGTERM)
    await service.output()
    assert service.process.returncode == 130
    assert time.monotonic() - began < 5


async def test_what_does_not_close_in_time_is_ended(start: StartService, tmp_path: Path) -> None:
    app = tmp_path / "stuck_app.py"
    app.write_text(
        "import asyncio, sys\n"
        "from contextlib import asynccontextmanager\n"
        "from retinue_kit.server import run_service\n"
        "from retinue_engine.settings import EngineSettings\n"
        "@asynccontextmanager\n"
        "async def open_app(settings):\n"
        "    yield []\n"
        "    await asyncio.sleep(60)\n"
        "sys.exit(run_service(EngineSettings, 'engine', open_app))\n"
    )
    service = await start(
        "stuck_app", PYTHONPATH=str(tmp_path), RETINUE_STOP_GRACE_S="0.1", RETINUE_CLOSE_TIMEOUT_S="0.2"
    )
    service.process.send_signal(signal.SIGTERM)
    _, err = await service.output()
    assert service.process.returncode == 1
    assert "did not close in time" in err


@pytest.mark.parametrize("which", ["RETINUE_ENGINE_ADDRESS", "RETINUE_ENGINE_METRICS_ADDRESS"])
async def test_a_port_that_is_taken_is_told_in_one_line(start: StartService, which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        service = await start(ready=False, **{which: address})
        out, err = await service.output()
    # gRPC's core adds a line of its own, which begins with its level and date.
    said = [line for line in err.splitlines() if not line.startswith("{") and "add_port.cc" not in line]
    assert (service.process.returncode, out) == (1, "")
    assert len(said) == 1, err
    assert said[0].startswith("engine: ")
    assert address in said[0]
    assert which in said[0]


async def test_a_second_engine_on_one_file_is_told_in_one_line(start: StartService) -> None:
    await start()
    second = await start(ready=False)
    _, err = await second.output()
    said = [line for line in err.splitlines() if not line.startswith("{")]
    assert second.process.returncode == 1
    assert len(said) == 1, err
    assert "another engine works on" in said[0]


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"RETINUE_STORE": "redis://x"}, "RETINUE_STORE"),
        ({"RETINUE_MAX_REQUEST_BYTES": "1"}, "RETINUE_MAX_REQUEST_BYTES"),
        ({"RETINUE_ENGINE_ADDRESS": "0.0.0.0:0"}, "not a loopback address"),
        ({"RETINUE_ENGINE_ADDRESS": "0.0.0.0:0", "RETINUE_TOKEN": "t"}, "not a loopback address"),
        ({"RETINUE_TLS_CERT_FILE": "/x"}, "RETINUE_TLS_KEY_FILE"),
        (
            {
                "RETINUE_ENGINE_ADDRESS": "0.0.0.0:0",
                "RETINUE_TLS_CERT_FILE": "/x",
                "RETINUE_TLS_KEY_FILE": "/x",
                "RETINUE_TOKEN": "",
            },
            "not a loopback address",
        ),
        ({"RETINUE_ENGINE_ADDRESS": "here"}, "RETINUE_ENGINE_ADDRESS: 'here' is no address"),
        ({"RETINUE_ENGINE_ADDRESS": "127.0.0.1:99999"}, "use HOST:PORT"),
        ({"RETINUE_ENGINE_METRICS_ADDRESS": "127.0.0.1"}, "RETINUE_ENGINE_METRICS_ADDRESS"),
    ],
)
def test_bad_settings_are_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], env: dict[str, str], words: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert words in err


async def test_a_process_with_bad_settings_says_so_and_ends_with_their_status(start: StartService) -> None:
    service = await start(ready=False, RETINUE_HEARTBEAT_S="soon")
    out, err = await service.output()
    assert (service.process.returncode, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert "RETINUE_HEARTBEAT_S" in err


async def test_a_certificate_that_cannot_be_used_is_told_with_its_setting(
    start: StartService, tmp_path: Path
) -> None:
    (tmp_path / "none.pem").write_text("none")
    for key, words in (("gone.pem", "RETINUE_TLS_KEY_FILE: "), ("none.pem", "no pair in PEM")):
        service = await start(
            ready=False,
            RETINUE_TLS_CERT_FILE=str(tmp_path / "none.pem"),
            RETINUE_TLS_KEY_FILE=str(tmp_path / key),
        )
        _, err = await service.output()
        assert service.process.returncode == 1
        assert words in err.splitlines()[-1]


async def test_a_variable_that_nobody_reads_is_told_with_the_nearest(start: StartService) -> None:
    service = await start(RETINUE_MAX_ACTIV_RUNS="3")
    service.process.send_signal(signal.SIGTERM)
    _, err = await service.output()
    told = json.loads(err.splitlines()[0])
    assert (told["level"], told["variable"]) == ("warning", "RETINUE_MAX_ACTIV_RUNS")
    assert told["nearest"] == "RETINUE_MAX_ACTIVE_RUNS"


def test_the_table_of_variables_is_that_of_the_settings() -> None:
    read = {"RETINUE_DEBUG", "RETINUE_PROTOS"}
    for settings in (RegistrySettings, McpHostSettings, EngineSettings):
        for name, field in settings.model_fields.items():
            alias = field.validation_alias or f"RETINUE_{name.upper()}"
            names = [str(choice) for choice in getattr(alias, "choices", [alias])]
            read.update(each for each in names if each.isupper())
    assert read == VARIABLES


async def test_any_address_is_open_where_that_is_said_in_so_many_words(start: StartService) -> None:
    service = await start(RETINUE_ENGINE_ADDRESS="0.0.0.0:0", RETINUE_INSECURE="true")
    assert json.loads(service.ready)["address"].startswith("0.0.0.0:")


async def test_metrics_are_served_on_loopback_alone(start: StartService) -> None:
    service = await start(ready=False, RETINUE_ENGINE_METRICS_ADDRESS="0.0.0.0:0")
    _, err = await service.output()
    assert service.process.returncode == 1
    assert "loopback" in err.splitlines()[-1]


async def test_tls_and_token_work_from_end_to_end(start: StartService, tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "localhost")
    service = await start(
        "retinue_registry",
        RETINUE_REGISTRY_ADDRESS="0.0.0.0:0",
        RETINUE_REGISTRY_METRICS_ADDRESS="",
        RETINUE_TLS_CERT_FILE=str(made.cert),
        RETINUE_TLS_KEY_FILE=str(made.key),
        RETINUE_TOKEN="let-me-in",
    )
    port = json.loads(service.ready)["address"].rpartition(":")[2]

    async def ask(access: Access) -> object:
        async with open_channel("registry", f"localhost:{port}", access) as channel:
            stub = service_pb2_grpc.RegistryServiceStub(channel.channel)
            return await channel.unary(stub.ListComponents, service_pb2.ListComponentsRequest(), timeout_s=10)

    assert await ask(Access(token="let-me-in", ca_file=made.ca))
    with pytest.raises(Exception, match="RETINUE_TOKEN"):
        await ask(Access(token="let-me-guess", ca_file=made.ca))
    with pytest.raises(Exception, match="cannot reach the registry"):
        await ask(Access(token="let-me-in"))


def test_the_client_imports_nothing_that_is_not_its_own() -> None:
    code = (
        "import sys, retinue.client; print([m for m in ('pydantic', 'litellm', 'mcp', 'motor', 'pymongo', "
        "'aiohttp', 'structlog', 'yaml', 'uvloop') if m in sys.modules])"
    )
    env = {"PATH": os.environ["PATH"]}
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env)
    assert out.stdout.strip() == "[]"
