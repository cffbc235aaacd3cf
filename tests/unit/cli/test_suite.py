"""Keeping processes running: small programs stand for the services."""

import asyncio
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from retinue_cli.failures import CommandError
from retinue_cli.suite import process, supervisor
from retinue_cli.suite.ports import choose_addresses, split_address
from retinue_cli.suite.process import Launch, ServiceProcess, descendants
from retinue_cli.suite.supervisor import Supervisor

_BOUND_S = 30.0

READY = (
    "import json, sys, time, os, signal; print(json.dumps({'ready': 'x', 'address': 'here'}), flush=True);"
)
SLEEP = READY + "time.sleep(60)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
UNTIL_STDIN_ENDS = READY + "sys.stdin.read()"


class Heard:
    """Remembers what happened to the services."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.changed = asyncio.Event()

    def _add(self, *event: str) -> None:
        self.events.append(event)
        self.changed.set()

    def died(self, name: str, how: str, again_in_s: float) -> None:
        self._add("died", name, how)

    def restarted(self, name: str, address: str) -> None:
        self._add("restarted", name)

    def failed_again(self, name: str, why: str) -> None:
        self._add("failed_again", name)

    def stopping(self) -> None:
        self._add("stopping")

    def stopped(self, name: str, *, by_force: bool) -> None:
        self._add("stopped", name, "by force" if by_force else "gently")

    async def until(self, kind: str) -> None:
        async with asyncio.timeout(_BOUND_S):
            while not any(event[0] == kind for event in self.events):
                self.changed.clear()
                await self.changed.wait()


def program(folder: Path, name: str, code: str) -> ServiceProcess:
    return ServiceProcess(Launch(name, [sys.executable, "-c", code], {}, folder / f"{name}.log"))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_BOUND_S):
        while not condition():  # noqa: ASYNC110 - processes set no events
            await asyncio.sleep(0.01)


async def nothing() -> None:
    """What to do when all are ready, in most of these tests."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(supervisor, "LONGEST_WAIT_S", 0.02)


async def test_services_stop_in_the_reverse_order(tmp_path: Path) -> None:
    heard = Heard()
    services = [program(tmp_path, name, SLEEP) for name in ("one", "two", "three")]
    keeper = Supervisor(services, heard)

    async def stop() -> None:
        assert all(service.alive and service.address == "here" for service in services)
        keeper.stop()

    await keeper.run(stop)
    # SIGTERM ends these programs by its default, which is gentle enough.
    assert heard.events == [
        ("stopping",),
        ("stopped", "three", "gently"),
        ("stopped", "two", "gently"),
        ("stopped", "one", "gently"),
    ]
    assert not any(service.alive for service in services)


async def test_one_that_dies_is_started_again(tmp_path: Path) -> None:
    heard = Heard()
    service = program(tmp_path, "one", SLEEP)
    keeper = Supervisor([service], heard)
    ready = asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    task = asyncio.create_task(keeper.run(on_ready))
    async with asyncio.timeout(_BOUND_S):
        await ready.wait()
    first = service.pid
    service._end_by_force()
    await heard.until("restarted")
    assert heard.events == [("died", "one", "killed by SIGKILL"), ("restarted", "one")]
    assert service.pid != first
    keeper.stop()
    await task
    assert not service.alive


async def test_one_that_dies_again_and_again_is_given_up_with_all_others(tmp_path: Path) -> None:
    heard = Heard()
    good = program(tmp_path, "good", SLEEP)
    bad = program(tmp_path, "bad", READY + "sys.exit(7)")
    with pytest.raises(CommandError, match=r"the bad died 6 times within 60 s \(exit status 7\); its log is"):
        await Supervisor([good, bad], heard).run(nothing)
    assert [event for event in heard.events if event[0] == "died"] == [("died", "bad", "exit status 7")] * 5
    assert not good.alive


async def test_one_that_does_not_start_shows_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "bad.log").write_text("of the last time\n")
    good = program(tmp_path, "good", SLEEP)
    bad = program(tmp_path, "bad", "import sys; sys.exit('no database')")
    with pytest.raises(CommandError) as caught:
        await Supervisor([good, bad], Heard()).run(nothing)
    assert str(caught.value) == (
        f"the bad did not start (exit status 1); the last lines of {tmp_path / 'bad.log'}:\n  no database"
    )
    assert not good.alive


async def test_one_that_never_becomes_ready_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "READY_TIMEOUT_S", 0.2)
    slow = program(tmp_path, "slow", "import time; time.sleep(60)")
    with pytest.raises(CommandError, match="the slow was not ready within 200 ms and said nothing"):
        await Supervisor([slow], Heard()).run(nothing)
    assert not slow.alive


async def test_one_that_ignores_the_request_to_stop_is_ended_by_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "STOP_TIMEOUT_S", 0.2)
    heard = Heard()
    keeper = Supervisor([program(tmp_path, "stubborn", STUBBORN)], heard)

    async def stop() -> None:
        keeper.stop()

    await keeper.run(stop)
    assert heard.events == [("stopping",), ("stopped", "stubborn", "by force")]


async def test_asked_twice_all_end_at_once_with_what_they_started(tmp_path: Path) -> None:
    heard = Heard()
    # A child in a session of its own, as MCP servers are: its process group does not reach it.
    child = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=-3);"
    service = program(tmp_path, "parent", child + STUBBORN)
    keeper = Supervisor([program(tmp_path, "other", STUBBORN), service], heard)
    below: list[int] = []

    async def stop() -> None:
        assert service.pid
        below.extend(descendants(service.pid))
        keeper.stop()

    task = asyncio.create_task(keeper.run(stop))
    await heard.until("stopping")
    keeper.stop()
    async with asyncio.timeout(_BOUND_S):
        await task
    assert heard.events == [
        ("stopping",),
        ("stopped", "parent", "by force"),
        ("stopped", "other", "by force"),
    ]
    assert keeper.forced
    assert len(below) == 1
    await until(lambda: not _runs(below[0]))


async def test_asked_to_stop_while_it_starts_nothing_is_left(tmp_path: Path) -> None:
    service = program(tmp_path, "slow", "import time; time.sleep(60)")
    keeper = Supervisor([service], Heard())
    task = asyncio.create_task(keeper.run(nothing))
    await until(lambda: service.alive)
    keeper.stop()
    await task
    assert not service.alive


async def test_a_service_is_told_by_the_end_of_its_stdin_that_nobody_keeps_it(tmp_path: Path) -> None:
    service = program(tmp_path, "one", UNTIL_STDIN_ENDS)
    await service.start()
    assert service._process
    assert service._process.stdin
    service._process.stdin.close()
    async with asyncio.timeout(_BOUND_S):
        assert await service.wait() == 0


def test_free_ports_are_chosen_each_another() -> None:
    chosen = choose_addresses({"--a": "127.0.0.1:0", "--b": "127.0.0.1:0", "--c": "[::1]:0"})
    ports = {split_address(address, option)[1] for option, address in chosen.items()}
    assert len(ports) >= 2
    assert 0 not in ports
    assert chosen["--c"].startswith("[::1]:")


def test_a_taken_port_is_one_line_that_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CommandError, match=rf"^{address} is taken: .* --engine HOST:PORT"):
            choose_addresses({"--engine": address})


@pytest.mark.parametrize("address", ["7403", "localhost", ":7403", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(CommandError, match="is not HOST:PORT"):
        split_address(address, "--engine")


def _runs(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
