"""Serving: from settings and an app to a gRPC server that is healthy, and back to nothing left behind."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import structlog
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError

from retinue.client.channel import MAX_MESSAGE_BYTES
from retinue.errors import RetinueError
from retinue_kit.garbage import keep_all, look_rarely
from retinue_kit.interceptor import CallInterceptor
from retinue_kit.logs import configure_logs
from retinue_kit.metrics import open_metrics_endpoint
from retinue_kit.settings import ServiceSettings, host_of
from retinue_kit.variables import unknown_variables

log = structlog.get_logger()

Settings = TypeVar("Settings", bound=ServiceSettings)

_STDIN, _STDERR = 0, 2
STOPPED_BY_FORCE = 130
"""Exit status after a second signal."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # a second service on the same port is an error, not a lottery
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Our clients ping an idle connection too; without this it is taken for abuse and closed after a minute.
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class Mount:
    """One gRPC service of an app."""

    name: str
    """Its full name, `retinue.engine.v1.RunService`, for health and reflection."""
    add: Callable[[grpc.aio.Server], None]
    """Adds its servicer to the server."""


OpenApp = Callable[[Settings], AbstractAsyncContextManager[Sequence[Mount]]]
"""Opens what a service is made of, in dependency order, and yields its gRPC services once all is open."""


@dataclass(frozen=True, slots=True)
class Served:
    """A service that answers."""

    address: str
    """`host:port`, with the port that was taken."""
    metrics_address: str | None


@asynccontextmanager
async def open_server(settings: Settings, open_app: OpenApp[Settings]) -> AsyncIterator[Served]:
    """Serve an app until the block is left; then end its calls, and close it."""
    async with open_app(settings) as mounts:
        interceptor = CallInterceptor(settings)
        server = grpc.aio.server(interceptors=[interceptor], options=_OPTIONS)
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        names = [mount.name for mount in mounts]
        for mount in mounts:
            mount.add(server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
        port = _listen(server, settings)
        with open_metrics_endpoint(settings.metrics_address, settings.service) as metrics_address:
            await server.start()
            for name in ["", *names]:
                await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
            try:
                yield Served(f"{host_of(settings.address)}:{port}", metrics_address)
            finally:
                await healthy.enter_graceful_shutdown()
                interceptor.end_streams()
                await server.stop(settings.stop_grace_s)


def _listen(server: grpc.aio.Server, settings: ServiceSettings) -> int:
    secure = settings.tls_cert_file and settings.tls_key_file
    doubt = ", or are RETINUE_TLS_CERT_FILE and RETINUE_TLS_KEY_FILE no pair in PEM" if secure else ""
    try:
        if settings.tls_cert_file and settings.tls_key_file:
            pair = (_read(settings.tls_key_file, "KEY"), _read(settings.tls_cert_file, "CERT"))
            return server.add_secure_port(settings.address, grpc.ssl_server_credentials([pair]))
        return server.add_insecure_port(settings.address)
    except RuntimeError:
        raise OSError(
            f"cannot listen on {settings.address}: is another {settings.service} running there{doubt}? "
            f"Stop it, or set RETINUE_{settings.service.upper().replace('-', '_')}_ADDRESS"
        ) from None


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"RETINUE_TLS_{what}_FILE: {path} cannot be read: {error.strerror}") from None


async def _serve(settings: Settings, open_app: OpenApp[Settings]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(STOPPED_BY_FORCE)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if settings.stop_on_stdin_eof:
        _call_at_eof(loop, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        served = await stack.enter_async_context(open_server(settings, open_app))
        look_rarely()
        keep_all()
        ready: dict[str, Any] = {
            "ready": settings.service,
            "address": served.address,
            "metrics_address": served.metrics_address,
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        log.info("ready", **ready)
        await stop.wait()
        log.info("stopping")
        try:
            async with asyncio.timeout(settings.stop_grace_s + settings.close_timeout_s):
                await stack.aclose()
        except TimeoutError:
            log.warning("did not close in time", timeout_s=settings.stop_grace_s + settings.close_timeout_s)
            os._exit(1)
    log.info("stopped")


def _call_at_eof(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    def on_readable() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            callback()

    try:
        loop.add_reader(_STDIN, on_readable)
    except OSError:
        raise OSError(
            "RETINUE_STOP_ON_STDIN_EOF: standard input is closed, a file or /dev/null, and none of these has "
            "an end to wait for: give it a pipe or a terminal, or leave the setting out"
        ) from None


def _fill_standard_files() -> None:
    """Open what is closed of 0, 1 and 2: uvloop gives up the process where one of them is something else."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        continue
    os.close(opened)


def run_service(settings_type: Callable[[], Settings], service: str, open_app: OpenApp[Settings]) -> int:
    """Serve until SIGINT or SIGTERM; the exit status. A second signal ends the process at once.

    What cannot start says why in one line on stderr.
    """
    _fill_standard_files()
    try:
        settings = settings_type()
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            variable = place if place.isupper() else f"RETINUE_{place.upper()}"
            text = problem["msg"].removeprefix("Value error, ")
            sys.stderr.write(f"{service}: {variable + ': ' if place else ''}{text}\n")
        return 2
    configure_logs(settings.service, settings.log_level, settings.log_format)
    for variable, near in unknown_variables(os.environ).items():
        log.warning("there is no such setting: it changes nothing", variable=variable, nearest=near)
    try:
        uvloop.run(_serve(settings, open_app))
    except (RetinueError, OSError, ValueError) as error:
        sys.stderr.write(f"{settings.service}: {error}\n")
        return 1
    return 0
