"""`retinue up` from start to end: nothing is left behind, however it ends."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from .cli_project import BOUND_S, Project, descendants, runs, until


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_all_in_reverse_order_and_leaves_no_process(
    project: Project, number: signal.Signals
) -> None:
    with project.up() as up:
        assert project.retinue("tools", "time").returncode == 0  # an MCP server runs now, too
        tree = up.tree()
        assert len(tree) >= 6
        assert project.services_file.is_file()
        up.started.process.send_signal(number)
        assert up.started.wait() == 0
    stopped = [each["service"] for each in up.started.objects if each["event"] == "stopped"]
    assert stopped == ["engine", "mcp-host", "registry", "model"]
    assert not any(each["by_force"] for each in up.started.objects if each["event"] == "stopped")
    until(lambda: not any(runs(pid) for pid in tree), "every process has ended")
    assert not project.services_file.exists()


def test_a_closed_terminal_does_not_keep_it_from_stopping_all(project: Project) -> None:
    read, write = os.pipe()
    model = f"127.0.0.1:{project.model_port}"
    command = project.command("up", "--free-ports", "--model-address", model)
    up = subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        os.close(write)
        until(lambda: project.services_file.is_file() or up.poll() is not None, "it is ready")
        os.close(read)
        tree = {up.pid, *descendants(up.pid)}
        assert len(tree) >= 5
        up.send_signal(signal.SIGHUP)
        assert up.communicate(timeout=BOUND_S)[1] == ""
        assert up.returncode == 0
    finally:
        up.kill()
        up.wait()
    until(lambda: not any(runs(pid) for pid in tree), "every process has ended")
    log = (project.folder / ".retinue" / "logs" / "engine.log").read_text()
    assert '"event": "stopped"' in log


def test_a_killed_up_leaves_no_process(project: Project) -> None:
    with project.up() as up:
        assert project.retinue("tools", "time").returncode == 0
        tree = up.tree()
        os.kill(up.started.process.pid, signal.SIGKILL)
        up.started.process.wait()
        until(lambda: not any(runs(pid) for pid in tree), "every process has ended")
    assert project.services_file.is_file()
    done = project.retinue("runs", "--engine", up.addresses["engine"], alone=True)
    assert "is not running" in done.stderr


def test_it_is_ready_soon_and_shows_what_it_started(project: Project) -> None:
    with project.started("up", "--free-ports", "--model-address", f"127.0.0.1:{project.model_port}") as up:
        until(lambda: "retinue run assistant" in up.text or up.process.poll() is not None, "it is ready")
        up.interrupt()
        assert up.wait() == 0, up.err
    assert "scripted: answers stand in model.yaml, no real model is asked" in up.text
    assert "Ready in " in up.text
    assert "■ engine stopped" in up.text
    assert "\x1b" not in up.text


def test_a_taken_port_is_one_line(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = project.retinue("up", "--free-ports", "--no-model", "--engine", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {address} is taken: ")
    assert done.stderr.count("\n") == 1


def test_a_service_that_does_not_start_shows_its_last_words_and_stops_the_others(project: Project) -> None:
    done = project.retinue("up", "--free-ports", "--no-model", "--store", "postgres://nowhere")
    assert done.returncode == 1
    assert "error: the engine did not start (exit status 2); the last lines of" in done.stderr
    assert "postgres://nowhere" in done.stderr
    assert not project.services_file.exists()


def test_a_wrong_script_is_said_with_its_line(project: Project) -> None:
    (project.folder / "model.yaml").write_text("defualt: {text: x}\n")
    done = project.retinue("up", "--free-ports", "--model-address", f"127.0.0.1:{project.model_port}")
    assert done.returncode == 1
    assert "model.yaml:1" in done.stderr


def test_serve_becomes_the_service(project: Project) -> None:
    options = ["--address", "127.0.0.1:0", "--metrics-address", ""]
    with project.started("serve", "registry", *options) as registry:
        until(lambda: registry.objects or registry.process.poll() is not None, "the registry is ready")
        ready = registry.objects[0]
        assert ready["ready"] == "registry"
        assert ready["pid"] == registry.process.pid
        assert project.retinue("get", "agent/assistant", "--registry", ready["address"]).returncode == 0
        registry.process.terminate()
        assert registry.wait() == 0


def test_dev_model_says_that_it_is_scripted(project: Project) -> None:
    with project.started("dev", "model", "--script", "model.yaml", "--port", "0") as model:
        until(lambda: "base_url" in model.text or model.process.poll() is not None, "it is ready")
        model.interrupt()
        assert model.wait() == 0, model.err
    assert model.text.startswith("A scripted model, not a real one")
