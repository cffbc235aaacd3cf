"""Stdio servers as processes: how they start, misbehave, die and are ended."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors

from .hosting import Host, Registry, alive, open_host, until

BRIEF = Duration(nanos=300_000_000)


async def test_a_server_that_exits_at_start_is_an_error_with_its_stderr(host: Host) -> None:
    host.stdio("bad", "raw_server.py", "dies")
    with pytest.raises(errors.McpServerUnavailableError) as caught:
        await host.call("bad", "echo")
    assert "ended with exit status 1" in caught.value.message
    assert "No module named 'flux'" in caught.value.message
    assert caught.value.facts["stderr"].startswith("Traceback")


async def test_a_failed_connect_is_told_to_all_who_wait_and_not_remembered(host: Host) -> None:
    host.stdio("bad", "raw_server.py", "dies")
    calls = [host.call("bad", "echo") for _ in range(10)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpServerUnavailableError}
    assert len(host.pids()) == 1
    with pytest.raises(errors.McpServerUnavailableError):
        await host.call("bad", "echo")
    assert len(host.pids()) == 2


async def test_a_program_that_does_not_exist_is_named(host: Host) -> None:
    host.stdio("none", "no-such-program")
    with pytest.raises(errors.McpServerUnavailableError, match="no program no-such-program on PATH"):
        await host.call("none", "echo")


async def test_a_folder_that_does_not_exist_is_named(host: Host) -> None:
    host.stdio("lost", "raw_server.py", stdio={"cwd": "/no/such/folder"})
    with pytest.raises(errors.McpServerUnavailableError, match="/no/such/folder"):
        await host.call("lost", "echo")


async def test_a_server_that_never_answers_the_handshake_times_out_with_its_stderr(host: Host) -> None:
    host.stdio("mute", "raw_server.py", "mute", connect_timeout=Duration(seconds=1))
    with pytest.raises(errors.McpTimeoutError, match="connect_timeout") as caught:
        await host.call("mute", "echo")
    assert caught.value.facts["timeout_s"] == "1"
    assert caught.value.facts["stderr"] == "loading the model, please wait"
    await until(lambda: not any(map(alive, host.pids())), "its process is gone")


async def test_a_kill_fails_all_calls_at_once_and_the_next_call_works(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    calls = [asyncio.ensure_future(host.call("raw", "hang")) for _ in range(20)]
    await until(lambda: len(host.lines("hanging")) == 20, "all calls are with the server")
    begin = time.monotonic()
    os.kill(host.pids()[0], signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - begin < 5
    assert {type(outcome) for outcome in outcomes} == {errors.McpServerUnavailableError}
    assert "was ended by SIGKILL" in str(outcomes[0])
    assert (await host.call("raw", "echo", '{"text": "again"}')).content[0].text == "again"
    assert len(host.pids()) == 2


async def test_a_server_that_dies_in_a_call_says_what_it_said_last(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    with pytest.raises(
        errors.McpServerUnavailableError, match="exit status 7; its stderr ends with: out of luck"
    ):
        await host.call("raw", "die")


async def test_garbage_on_stdout_harms_nothing(host: Host) -> None:
    host.stdio("raw", "raw_server.py", "garbage")
    assert (await host.call("raw", "echo", '{"text": "still here"}')).content[0].text == "still here"


async def test_bytes_that_are_not_utf8_are_replaced(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    assert (await host.call("raw", "bad_bytes")).content[0].text == "a\ufffdb"
    assert (await host.call("raw", "echo", '{"text": "on"}')).content[0].text == "on"


async def test_a_line_of_two_megabytes_is_read_while_a_neighbour_answers(
    registry: Registry, tmp_path: Path
) -> None:
    async with open_host(registry, tmp_path, max_result_bytes=4_000_000) as host:
        host.stdio("raw", "raw_server.py")
        host.stdio("near", "raw_server.py")
        await host.call("near", "echo")
        big, *near = await asyncio.gather(
            host.call("raw", "big", '{"size": 2000000}'), *(host.call("near", "echo") for _ in range(50))
        )
        assert len(big.content[0].text) == 2_000_000
        assert len(near) == 50


async def test_an_answer_longer_than_the_limit_is_an_error_of_its_call_alone(
    registry: Registry, tmp_path: Path
) -> None:
    async with open_host(registry, tmp_path, max_server_message_bytes=100_000) as host:
        host.stdio("raw", "raw_server.py")
        with pytest.raises(errors.PayloadTooLargeError, match="longer than 100000 bytes"):
            await host.call("raw", "big", '{"size": 2000000}')
        assert (await host.call("raw", "echo", '{"text": "on"}')).content[0].text == "on"


async def test_the_environment_is_four_names_and_the_configs_own(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setenv("SOME_TOKEN", "s3cret-token")
    host.stdio("raw", "raw_server.py", env={"TOKEN": "${env:SOME_TOKEN}", "PLAIN": "yes"})
    environment = json.loads((await host.call("raw", "env")).content[0].text)
    environment.pop("LC_CTYPE", None)  # Python sets it in itself
    assert set(environment) == {"PATH", "HOME", "LANG", "TMPDIR", "TOKEN", "PLAIN", "TEST_FOLDER"}
    assert environment["TOKEN"] == "s3cret-token"


async def test_a_missing_secret_is_named_and_nothing_is_started(host: Host) -> None:
    host.stdio("raw", "raw_server.py", env={"TOKEN": "${env:RETINUE_TEST_NOT_SET}"})
    with pytest.raises(errors.SecretNotFoundError, match="RETINUE_TEST_NOT_SET"):
        await host.call("raw", "echo")
    assert not host.pids()


async def test_an_idle_connection_is_closed_and_made_again(host: Host) -> None:
    host.stdio("raw", "raw_server.py", idle_timeout=BRIEF)
    await host.call("raw", "echo")
    await until(lambda: not alive(host.pids()[0]), "the idle server is gone")
    await host.call("raw", "echo")
    assert len(host.pids()) == 2


async def test_a_call_keeps_its_connection_from_being_idle(host: Host) -> None:
    host.stdio("raw", "raw_server.py", idle_timeout=BRIEF, call_timeout=Duration(seconds=1))
    with pytest.raises(errors.McpTimeoutError):
        await host.call("raw", "hang")
    assert len(host.pids()) == 1


async def test_a_new_version_is_a_new_connection(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    await host.call("raw", "echo")
    host.stdio("raw", "raw_server.py", env={"VERSION": "2"})
    assert json.loads((await host.call("raw", "env")).content[0].text)["VERSION"] == "2"
    assert len(host.pids()) == 2


@pytest.fixture
async def closed(registry: Registry, tmp_path: Path) -> Any:
    """Runs a server in a host until that is closed; returns the pids that it noted."""

    async def run(*ways: str) -> list[int]:
        async with open_host(registry, tmp_path) as host:
            host.stdio("raw", "raw_server.py", *ways)
            await host.call("raw", "echo")
        return host.pids() + host.pids("children")

    return run


async def test_closing_ends_the_server_by_the_end_of_its_input(closed: Any) -> None:
    begin = time.monotonic()
    (pid,) = await closed()
    assert not alive(pid)
    assert time.monotonic() - begin < 5


async def test_closing_ends_the_servers_children_too(closed: Any) -> None:
    pids = await closed("parent")
    assert len(pids) == 2
    assert not any(map(alive, pids))


async def test_a_server_that_ignores_everything_is_killed(closed: Any) -> None:
    pids = await closed("stubborn", "parent")
    assert not any(map(alive, pids))


async def test_children_of_a_server_that_died_are_ended(host: Host) -> None:
    host.stdio("raw", "raw_server.py", "parent")
    with pytest.raises(errors.McpServerUnavailableError):
        await host.call("raw", "die")
    await until(lambda: not any(map(alive, host.pids("children"))), "the children are gone")


async def test_closing_breaks_off_a_connect(registry: Registry, tmp_path: Path) -> None:
    async with open_host(registry, tmp_path) as host:
        host.stdio("mute", "raw_server.py", "mute")
        call = asyncio.ensure_future(host.call("mute", "echo"))
        await until(host.pids, "the server is started")
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(outcome, BaseException)
    assert not any(map(alive, host.pids()))
