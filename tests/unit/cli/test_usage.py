"""The command line itself: speed, wrong usage, errors nobody foresaw."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import retinue_cli
from retinue import client
from retinue.registry.v1 import component_pb2, service_pb2
from retinue_cli import call, component_changes, kinds, which_options
from retinue_cli.__main__ import main
from retinue_cli.commands import about


def test_help_needs_neither_grpc_nor_rich_tables_nor_services() -> None:
    code = (
        "import sys\nfrom retinue_cli.__main__ import main\nmain(['--help'])\n"
        "heavy = {'grpc', 'google.protobuf', 'pydantic', 'yaml', 'aiohttp', 'retinue.client', 'retinue_kit',"
        " 'retinue_engine', 'retinue_registry', 'retinue_mcp_host'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Run agents" in done.stdout
    # Ten times what it takes; bench/ has the exact time.
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'? `retinue --help` shows how"),
        (["run"], "Missing argument 'AGENT': `retinue run --help` shows how"),
        (["run", "a", "b", "--temprature", "1"], "`retinue run --help` shows how"),
        (["run", "a", "b", "--temperature", "7"], "--temperature"),
        (["run", "a", " "], "the message is empty"),
        (["run", "a", "b", "--label", "x"], "--label 'x' is not NAME=VALUE"),
        (["run", "a", "b", "--var", "=x"], "--var '=x' is not NAME=VALUE"),
        (["run", "a", "b", "--var", "x=1", "--var", "x=2"], "--var x is given twice"),
        (["run", "a", "b", "--busy", "wait"], "'wait' is not one of 'enqueue', 'reject', 'interrupt'"),
        (["run", "a", "b", "--timeout", "soon"], "'soon' is no span of time: 30s"),
        (["run", "a", "b", "--queue-timeout", "0s"], "'0s' is no span of time"),
        (["run", "a", "b", "--priority", "101"], "--priority"),
        (["sessions", "s-1", "--label", "a=b"], "--label and --steps-of find sessions"),
        (["sessions", "s-1", "--steps-of", "s"], "--label and --steps-of find sessions"),
        (["session", "label", "s-1", "x"], "a label 'x' is not NAME=VALUE"),
        (["session", "delete", "s-1"], "there is nobody to ask here: --yes deletes without asking"),
        (["session", "forget", "s-1"], "No such command 'forget'"),
        (["runs", "--state", "done"], "--state done is no state of a run: use queued, running"),
        (["get", "agnet"], "'agnet' is no kind of component: did you mean agent?"),
        (["get", "agent", "--version", "2"], "--version needs one component"),
        (["apply"], "name the files"),
        (["up", "--project", "nowhere"], "there is no retinue.yaml in nowhere"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], shown: str
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert shown in said.err
    assert said.err.count("\n") == 1


def test_what_nobody_foresaw_is_one_line_that_says_how_to_see_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down() -> None:
        raise KeyError("protos")

    monkeypatch.setattr(about, "_protos_folder", break_down)
    assert main(["protos", "--out", "here"]) == 1
    assert (
        capsys.readouterr().err == "error: unexpected KeyError: 'protos'; set RETINUE_DEBUG=1 to see where\n"
    )
    monkeypatch.setenv("RETINUE_DEBUG", "1")
    assert main(["protos", "--out", "here"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "retinue [OPTIONS] COMMAND" in capsys.readouterr().out


def test_the_default_addresses_are_the_clients() -> None:
    assert call.ENGINE_ADDRESS == client.ENGINE_ADDRESS
    assert call.REGISTRY_ADDRESS == client.REGISTRY_ADDRESS
    assert call.MCP_HOST_ADDRESS == client.MCP_HOST_ADDRESS


def test_the_kinds_are_those_of_the_proto() -> None:
    for name, number in component_pb2.ComponentKind.items():
        if number:
            word = name.removeprefix("COMPONENT_KIND_").lower()
            assert kinds.kind_number(word) == number
            assert kinds.kind_number(f"{word}s".replace("_", "-")) == number


def test_the_numbers_of_other_enums_are_those_of_the_proto() -> None:
    for name, number in service_pb2.ApplyOutcome.items():
        assert not number or getattr(component_changes, name.removeprefix("APPLY_OUTCOME_")) == number
    layers = {
        number: name.removeprefix("FILE_LAYER_").lower() for name, number in component_pb2.FileLayer.items()
    }
    assert layers == {0: "unspecified", **kinds.LAYERS}
    for name, source_type in service_pb2.SourceType.items():
        if source_type:
            source = which_options.Source(name.removeprefix("SOURCE_TYPE_").lower())
            assert which_options.which_options(source=source).source == source_type


def test_a_terminal_without_unicode_gets_plain_symbols(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "retinue_cli", "init", str(tmp_path / "shop")]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert done.stdout.startswith(b"+ made ")
    assert b"?" not in done.stdout.replace(b"Tokyo?", b"")


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "sys.path = [p for p in sys.path if 'site-packages' not in p]\n"
        f"sys.path.append({str(Path(retinue_cli.__file__).parents[1])!r})\n"
        "from retinue_cli.__main__ import main\nsys.exit(main(['runs']))\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "pip install 'retinue[cli]'" in done.stderr
