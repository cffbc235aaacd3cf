"""What the kit does to every call: token, errors, deadline, reflection, streams at the end."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from retinue.client import Access, ServiceChannel, open_channel
from retinue.errors import (
    DeadlineExceededError,
    InternalError,
    RunNotFoundError,
    ServiceUnavailableError,
    UnauthenticatedError,
    UnimplementedError,
)
from retinue_engine.settings import EngineSettings
from retinue_kit.logs import _add_trace
from retinue_kit.server import Mount, open_server
from retinue_kit.tracing import current_traceparent, enter_trace, leave_trace
from tests.suite import until

SERVICE = "test.v1.Service"


def app(settings: Any) -> Any:
    @asynccontextmanager
    async def opened(_settings: EngineSettings) -> AsyncIterator[Sequence[Mount]]:
        async def behave(request: bytes, _context: Any) -> bytes:
            if request == b"bug":
                raise KeyError("inner secret")
            if request == b"known":
                raise RunNotFoundError("there is no run ä", run_id="ä")
            if request == b"slow":
                await asyncio.Event().wait()
            return (current_traceparent() or "none").encode() if request == b"trace" else request

        async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
            while True:
                yield await behave(request, context)
                if request != b"busy":
                    await asyncio.Event().wait()

        def add(server: grpc.aio.Server) -> None:
            handlers: dict[str, Any] = {
                "Unary": grpc.unary_unary_rpc_method_handler(behave),
                "Stream": grpc.unary_stream_rpc_method_handler(stream),
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

        yield [Mount(SERVICE, add)]

    settings = {"address": "127.0.0.1:0", "metrics_address": "", "stop_grace_s": 0.5} | settings
    return open_server(EngineSettings(**settings), opened)


def unary(channel: ServiceChannel, request: bytes, timeout_s: float = 10) -> Any:
    return channel.unary(channel.channel.unary_unary(f"/{SERVICE}/Unary"), request, timeout_s=timeout_s)


def stream(channel: ServiceChannel, request: bytes) -> AsyncIterator[bytes]:
    return channel.stream(channel.channel.unary_stream(f"/{SERVICE}/Stream"), request)


@pytest.mark.parametrize(
    ("token", "admitted"), [("right", True), ("wrong", False), (None, False), ("", False)]
)
async def test_only_who_shows_the_token_is_let_in(token: str | None, admitted: bool) -> None:
    async with app({"token": "right"}) as served, open_channel("x", served.address, Access(token)) as channel:
        for call in (lambda: unary(channel, b"hi"), lambda: anext(stream(channel, b"hi"))):
            if admitted:
                assert await call() == b"hi"
            else:
                with pytest.raises(UnauthenticatedError, match="RETINUE_TOKEN"):
                    await call()
        # Load balancers ask without one.
        health = health_pb2_grpc.HealthStub(channel.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status


@pytest.mark.parametrize("request_", [b"bug", b"known"])
async def test_an_unknown_error_says_nothing_and_is_logged_once(request_: bytes) -> None:
    async with app({}) as served, open_channel("x", served.address, Access()) as channel:
        for call in (lambda: unary(channel, request_), lambda: anext(stream(channel, request_))):
            with structlog.testing.capture_logs() as logs:
                if request_ == b"bug":
                    with pytest.raises(InternalError) as bug:
                        await call()
                    assert "secret" not in str(bug.value)
                    assert bug.value.facts == {}
                else:
                    with pytest.raises(RunNotFoundError) as known:
                        await call()
                    assert known.value.facts == {"run_id": "ä"}
                    assert known.value.message == "there is no run ä"
            levels = [each["log_level"] for each in logs if each["log_level"] != "debug"]
            assert levels == (["error"] if request_ == b"bug" else [])


async def test_a_call_that_takes_too_long_is_ended() -> None:
    async with (
        app({"call_timeout_s": 0.1}) as served,
        open_channel("x", served.address, Access()) as channel,
    ):
        with pytest.raises(DeadlineExceededError, match=r"longer than 0\.1 s"):
            await unary(channel, b"slow")
        with pytest.raises(DeadlineExceededError):
            await unary(channel, b"slow", timeout_s=0.05)


async def test_a_method_that_is_not_there_is_unimplemented() -> None:
    async with app({}) as served, open_channel("x", served.address, Access()) as channel:
        with pytest.raises(UnimplementedError):
            await channel.unary(channel.channel.unary_unary(f"/{SERVICE}/Nothing"), b"")


@pytest.mark.parametrize("request_", [b"idle", b"busy"])
async def test_streams_are_told_to_connect_again_when_the_service_stops(request_: bytes) -> None:
    reading: set[int] = set()
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(app({}))
        async with open_channel("x", served.address, Access()) as channel:

            async def read(number: int) -> None:
                async for _ in stream(channel, request_):
                    reading.add(number)

            readers = [asyncio.create_task(read(number)) for number in range(10)]
            await until(lambda: len(reading) == 10, "all have begun")
            async with asyncio.timeout(10):
                await stack.aclose()
            for outcome in await asyncio.gather(*readers, return_exceptions=True):
                assert isinstance(outcome, ServiceUnavailableError), outcome
                assert "stopping" in outcome.message


async def test_reflection_lists_the_services() -> None:
    async with app({}) as served:

        def listed() -> list[str]:
            with grpc.insecure_channel(served.address) as channel:
                return list(ProtoReflectionDescriptorDatabase(channel).get_services())

        found = await asyncio.to_thread(listed)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(found)


async def test_the_trace_of_a_caller_is_in_the_logs_and_goes_on_to_whom_it_calls() -> None:
    trace_id, given = (
        "0af7651916cd43dd8448eb211c80319c",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    access = EngineSettings(address="127.0.0.1:0").access
    async with app({}) as served, open_channel("x", served.address, access) as channel:
        assert await unary(channel, b"trace") == b"none"
        entered = enter_trace(given)
        try:
            assert await unary(channel, b"trace") == given.encode()
            assert _add_trace(None, "", {})["trace_id"] == trace_id
        finally:
            leave_trace(entered)
        assert await unary(channel, b"trace") == b"none"
