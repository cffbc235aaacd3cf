"""What the host shows of its servers: lists, states as they change, logs; and servers that are kept warm."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors
from retinue.mcphost.v1 import server_pb2
from retinue_mcp_host.connections import connection
from retinue_mcp_host.servers import log as server_log

from .hosting import SOON_S, Host, Registry, alive, open_host, until, until_awaited

READY = server_pb2.CONNECTION_STATE_READY


async def test_servers_are_listed_by_label_and_page_whether_they_run_or_not(host: Host) -> None:
    for name in ("one", "two", "three"):
        host.stdio(name, "raw_server.py", labels={"team": "x"}, description=f"it is {name}")
    host.stdio("four", "raw_server.py")
    await host.call("two", "echo")
    servers, failures = await host.servers.list(labels={"team": "x"}, page_size=2)
    assert not failures
    assert [each.name for each in servers] == ["one", "three", "two"]
    assert not servers[0].connections
    two = servers[2]
    assert (two.description, two.labels["team"], two.server_name) == ("it is two", "x", "raw")
    assert two.protocol_version
    (connection,) = two.connections
    assert (connection.state, connection.process_id, connection.calls) == (READY, host.pids()[0], 0)


async def test_servers_are_found_by_what_they_can_do_and_connected_to_see_it(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    host.stdio("bad", "raw_server.py", "dies")
    servers, failures = await host.servers.list(capabilities=["tools"])
    assert [each.name for each in servers] == ["raw"]
    assert servers[0].capabilities.tools
    assert [each.server for each in failures] == ["bad"]
    with pytest.raises(errors.InvalidArgumentError, match="there is no capability flying"):
        await host.servers.list(capabilities=["flying"])


async def test_an_unknown_server_is_not_found(host: Host) -> None:
    with pytest.raises(errors.ComponentNotFoundError):
        await host.servers.get("none")
    with pytest.raises(errors.ComponentNotFoundError):
        await host.servers.restart("none")
    with pytest.raises(errors.ComponentNotFoundError):
        await anext(host.servers.log("none"))


async def test_calls_under_way_and_waiting_are_shown(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=2)
    calls = [asyncio.ensure_future(host.call("raw", "hang")) for _ in range(5)]

    async def counted() -> bool:
        connections = (await host.servers.get("raw")).connections
        return bool(connections) and (connections[0].calls, connections[0].queued_calls) == (2, 3)

    await until_awaited(counted, "two calls run and three wait")
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


class Watch:
    """The servers as a watch tells them."""

    def __init__(self, responses: AsyncIterator[server_pb2.WatchServersResponse]) -> None:
        self._responses = responses
        self.servers: dict[str, server_pb2.Server] = {}

    async def until(self, condition: Any, what: str) -> None:
        """Take what comes until a condition holds."""
        try:
            async with asyncio.timeout(SOON_S):
                while not condition(self.servers):
                    response = await anext(self._responses)
                    self.servers.update({each.name: each for each in response.servers})
                    for name in response.gone:
                        self.servers.pop(name, None)
        except TimeoutError:
            raise AssertionError(f"not within {SOON_S} s: {what}") from None


def state(servers: dict[str, server_pb2.Server], name: str) -> int:
    """What a server's newest connection is doing."""
    connections = servers[name].connections
    return connections[0].state if connections else 0


async def test_a_watch_tells_servers_as_they_are_and_as_they_change(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    host.stdio("bad", "raw_server.py", "dies")
    async with aclosing(host.servers.watch()) as responses:  # type: ignore[type-var]
        watch = Watch(responses)
        await watch.until(lambda servers: set(servers) == {"raw", "bad"}, "all servers")
        assert state(watch.servers, "raw") == 0
        await host.call("raw", "echo")
        await watch.until(lambda servers: state(servers, "raw") == READY, "it is ready")
        os.kill(host.pids()[0], signal.SIGKILL)
        failed = server_pb2.CONNECTION_STATE_FAILED
        await watch.until(lambda servers: state(servers, "raw") == failed, "it has failed")
        assert "SIGKILL" in watch.servers["raw"].connections[0].last_failure.message
        host.stdio("new", "raw_server.py")
        await host.registry.tell()
        await watch.until(lambda servers: "new" in servers, "a new server")
        await host.registry.delete("new")
        await watch.until(lambda servers: "new" not in servers, "it is gone")


async def test_a_warm_server_is_connected_before_its_first_use_and_again_when_it_dies(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SUPERSEDED_IDLE_S", 0.1)
    async with open_host(registry, tmp_path) as host:
        brief = Duration(nanos=100_000_000)
        host.stdio("raw", "raw_server.py", prewarm=True, idle_timeout=brief)
        await registry.tell()
        await until(lambda: len(host.pids()) == 1, "it is started when it is stored")
        await host.call("raw", "echo")
        os.kill(host.pids()[0], signal.SIGKILL)
        await until(lambda: len(host.pids()) == 2, "it is started again")
        host.stdio("raw", "raw_server.py", prewarm=True, env={"VERSION": "2"})
        await registry.tell()
        await until(lambda: len(host.pids()) == 3, "its new version is started")
        await until(lambda: not alive(host.pids()[1]), "its old version ends")
    async with open_host(registry, tmp_path) as host:
        await until(lambda: len(host.pids()) == 4, "it is started with the host")
        host.stdio("raw", "raw_server.py")
        await registry.tell()
        await until(lambda: not alive(host.pids()[3]), "it is to be warm no more")
        host.stdio("raw", "raw_server.py", prewarm=True)
        await registry.tell()
        await until(lambda: len(host.pids()) == 5, "it is to be warm again")
        await registry.delete("raw")
        await until(lambda: not alive(host.pids()[4]), "it is deleted")


async def test_a_log_gives_what_is_kept_and_goes_on_with_what_comes(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cret-token")
    host.stdio("raw", "raw_server.py", env={"TOKEN": "${env:SOME_TOKEN}"})
    await host.call("raw", "complain", '{"text": "first"}')
    seen: list[str] = []

    async def follow() -> None:
        async for response in host.servers.log("raw", follow=True):
            seen.extend(each.message for each in response.entries)

    following = asyncio.ensure_future(follow())
    await until(lambda: seen == ["first"], "what is kept")
    await host.call("raw", "complain", '{"text": "the token is s3cret-token"}')
    await until(lambda: seen == ["first", "the token is ***"], "what comes")
    following.cancel()
    (response,) = [each async for each in host.servers.log("raw")]
    assert [each.message for each in response.entries] == seen
    assert not response.entries[0].level
    assert response.entries[0].time.ToMicroseconds() > 0


async def test_what_a_log_has_no_room_for_is_counted(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_log, "MAX_ENTRIES", 3)
    host.stdio("raw", "raw_server.py")
    for number in range(5):
        await host.call("raw", "complain", f'{{"text": "line {number}"}}')

    async def kept() -> Any:
        (response,) = [each async for each in host.servers.log("raw")]
        return response if len(response.entries) == 3 and response.dropped == 2 else None

    response = await until_awaited(kept, "the last three lines")
    assert [each.message for each in response.entries] == ["line 2", "line 3", "line 4"]


async def test_a_registry_that_is_away_does_not_stop_the_host_and_is_followed_when_it_is_back(
    registry: Registry, tmp_path: Path
) -> None:
    registry.is_away = True
    async with open_host(registry, tmp_path) as host:
        host.stdio("raw", "raw_server.py", prewarm=True)
        with pytest.raises(errors.ServiceUnavailableError):
            await host.servers.get("raw")
        registry.is_away = False
        await until(host.pids, "the warm server is started")
        assert [each.name for each in (await host.servers.list())[0]] == ["raw"]
