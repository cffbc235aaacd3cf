"""The client follows a run over broken connections, and says clearly when it cannot."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest

import retinue.client.runs
from retinue.client import Access, open_client
from retinue.errors import RetinueError, ServiceUnavailableError
from tests.suite import check_story, open_processes, open_suite

CHUNKS = [f"{n:0100} " for n in range(40)]
"""More text than the connections below carry before each of them breaks."""


async def test_a_watch_goes_on_after_the_engine_was_restarted(tmp_path: Path) -> None:
    script = {"default": {"chunks": CHUNKS, "chunk_delay_ms": 20}}
    async with open_processes(tmp_path, script) as suite:
        events = []
        restarted = False
        async for event in suite.client.runs.stream("a", "hi"):
            events.append(event)
            if len(events) == 6 and not restarted:
                restarted = True
                await suite.engine_process.kill()
                await suite.engine_process.start()
        check_story(events)
        assert events[-1].run_finished.result.output == "".join(CHUNKS)
        assert len(suite.model.requests) == 2


class Flaky:
    """A proxy that drops its first connections after so many bytes of the answer."""

    def __init__(self, address: str, drops: list[int]) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._drops = drops
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        limit = self._drops.pop(0) if self._drops else 2**60
        inner_reader, inner = await asyncio.open_connection(self._host, int(self._port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int) -> None:
            while most > 0 and (data := await source.read(min(65536, most))):
                sink.write(data)
                await sink.drain()
                most -= len(data)

        pumps = [
            asyncio.create_task(pump(reader, inner, 2**60)),
            asyncio.create_task(pump(inner_reader, writer, limit)),
        ]
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for each in (inner, writer):
            each.transport.abort()


@pytest.mark.parametrize("drops", [[1], [60, 200], [400] * 5, [100, 900, 2000, 300]])
async def test_a_story_comes_whole_over_connections_that_break_anywhere(
    tmp_path: Path, drops: list[int]
) -> None:
    async with open_suite(tmp_path, {"default": {"chunks": CHUNKS, "chunk_delay_ms": 3}}) as suite:
        proxy = Flaky(suite.engine, list(drops))
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            async with open_client(f"127.0.0.1:{port}", access=Access()) as client, asyncio.timeout(20):
                events = [event async for event in client.runs.stream("a", "hi")]
        check_story(events)
        assert proxy.connections > len(drops)
        # It was sent again, and is one run.
        assert len([run async for run in suite.client.runs.list()]) == 1
        assert len(suite.model.requests) == 1


async def test_who_reaches_nobody_gives_up_and_says_whom_he_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retinue.client.runs, "GIVE_UP_AFTER", 3)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with open_client(address, access=Access()) as client:
            for stream in (client.runs.stream("a", "hi"), client.runs.watch("run-x")):
                with pytest.raises(ServiceUnavailableError) as gave_up:
                    await anext(stream)
                assert gave_up.value.message.startswith("gave up after 3 tries: cannot reach the engine at")
                assert gave_up.value.facts == {"service": "engine", "address": address}


async def test_giving_up_names_the_service_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retinue.client.runs, "GIVE_UP_AFTER", 2)
    async with open_processes(tmp_path, {"default": {"text": "x"}}) as suite:
        suite.engine_process._env["RETINUE_REGISTRY_ADDRESS"] = "127.0.0.1:1"
        await suite.engine_process.kill()
        await suite.engine_process.start()
        with pytest.raises(ServiceUnavailableError) as gave_up:
            await suite.story()
        assert gave_up.value.facts["service"] == "registry"


async def test_a_namespace_of_the_client_is_in_every_call(tmp_path: Path) -> None:
    async with open_suite(tmp_path) as suite:
        run = await suite.client.runs.start("a", "hi")
        async with open_client(
            suite.engine, registry=suite.registry, namespace="other", access=Access()
        ) as other:
            assert not [each async for each in other.runs.list()]
            assert not [each async for each in other.sessions.list()]
            for call in (
                other.runs.get(run.run_id),
                other.runs.cancel(run.run_id),
                other.sessions.get(run.session_id),
                other.runs.start("a", "hi"),
                anext(other.runs.watch(run.run_id)),
            ):
                with pytest.raises(RetinueError) as refused:
                    await call
                assert refused.value.code == grpc.StatusCode.NOT_FOUND
