"""`retinue servers`, `call`, `logs` and `restart`, against a real host."""

import asyncio
import json
from typing import Any

import pytest

from retinue_cli.command import run_command

from .hosting import Host


@pytest.fixture
def retinue(host: Host, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; returns its exit status, and what it wrote on stdout and stderr."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = await asyncio.to_thread(run_command, [*arguments, "--mcp-host", host.channel.address])
        written = capsys.readouterr()
        return status, written.out, written.err

    return run


def answer(out: str) -> Any:
    """The object that a command wrote with --json; the host in this process logs on the same stdout."""
    return json.loads(next(line for line in out.splitlines() if line.startswith("{")))


async def test_a_tool_is_called_with_arguments_of_its_schema_and_its_progress_is_shown(
    host: Host, retinue: Any
) -> None:
    host.stdio("sdk", "sdk_server.py")
    status, out, err = await retinue("call", "sdk", "count", "--arg", "to=2")
    assert status == 0
    assert "1/2 step 1\n2/2 step 2\n" in err
    assert "\ndone\n" in out
    status, out, _ = await retinue("call", "sdk", "echo", "--arg", "text=17", "--json")
    assert answer(out)["content"] == [{"text": "17"}]
    status, out, _ = await retinue("call", "sdk", "add", "--json-args", '{"a": 1, "b": 2}', "--json")
    assert json.loads(answer(out)["structured_json"]) == {"total": 3}
    status, _, err = await retinue("call", "sdk", "add", "--arg", "a=one", "--arg", "b=2")
    assert (status, err) == (2, "error: --arg a has to be JSON, of type integer\n")
    status, out, _ = await retinue("call", "sdk", "fail", "--arg", "why=no luck")
    assert status == 1
    assert "Error executing tool fail" in out


async def test_servers_are_shown_restarted_and_their_logs_read(host: Host, retinue: Any) -> None:
    host.stdio("raw", "raw_server.py", labels={"team": "x"})
    host.stdio("bad", "raw_server.py", "dies")
    await host.call("raw", "complain", '{"text": "oh dear"}')
    status, out, _ = await retinue("servers")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["bad", "1", "not", "used", "yet"] in rows
    assert ["raw", "1", "shared", "ready,", "just", "now", "0", "0"] in rows
    status, out, _ = await retinue("servers", "--label", "team=x", "--json")
    assert [each["name"] for each in answer(out)["servers"]] == ["raw"]
    status, out, _ = await retinue("logs", "raw")
    assert (status, "stderr oh dear\n" in out) == (0, True)
    status, out, _ = await retinue("restart", "raw", "--json")
    assert answer(out)["connections"][0]["process_id"] == host.pids()[1]
    status, _, err = await retinue("restart", "bad")
    assert status == 1
    assert "No module named 'flux'" in err
