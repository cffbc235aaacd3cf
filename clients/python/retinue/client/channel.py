"""One channel to one service: how it is opened, how calls carry the token, how failures come out."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from retinue.errors import RetinueError, ServiceUnavailableError
from retinue.rpc_status import error_from_rpc

Request = TypeVar("Request")
Response = TypeVar("Response")

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""The transport's own limit, far above the services' (4 MiB): theirs answer with a reason, this does not."""

CALL_TIMEOUT_S = 30.0
"""For a unary call, where the caller says nothing."""

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A dead peer is noticed within half a minute, also while nothing is sent.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Come back soon after a restart: the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


@dataclass(frozen=True, slots=True)
class Access:
    """What it takes to be let in: nothing on loopback, TLS and a token elsewhere."""

    token: str | None = field(default=None, repr=False)
    """The bearer token."""
    tls: bool = False
    ca_file: Path | None = None
    """The certificates to trust; those of the system where it is None. Implies `tls`."""
    trace: Callable[[], str | None] | None = field(default=None, repr=False)
    """Asked at each call for the W3C `traceparent` to send with it."""

    @classmethod
    def from_environment(cls) -> "Access":
        """As RETINUE_TOKEN, RETINUE_TLS and RETINUE_TLS_CA_FILE say."""
        ca_file = os.environ.get("RETINUE_TLS_CA_FILE")
        return cls(
            token=os.environ.get("RETINUE_TOKEN") or None,
            tls=os.environ.get("RETINUE_TLS", "").lower() in {"1", "true", "yes"},
            ca_file=Path(ca_file) if ca_file else None,
        )


class ServiceChannel:
    """Calls of one service. Every failure comes out as a RetinueError."""

    def __init__(self, channel: grpc.aio.Channel, service: str, address: str, access: Access) -> None:
        self.channel = channel
        self.service = service
        self.address = address
        self._trace = access.trace
        self._metadata: tuple[tuple[str, str], ...] = (
            (("authorization", f"Bearer {access.token}"),) if access.token else ()
        )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call: the token, and the trace that it belongs to."""
        traceparent = self._trace() if self._trace else None
        return (*self._metadata, ("traceparent", traceparent)) if traceparent else self._metadata

    async def unary(
        self,
        rpc: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Call once and return the answer."""
        try:
            return await rpc(request, timeout=timeout_s, metadata=self.metadata)
        except grpc.aio.AioRpcError as failure:
            raise self.error(failure) from None

    async def stream(
        self,
        rpc: "grpc.aio.UnaryStreamMultiCallable[Request, Response]",
        request: Request,
        *,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Response]:
        """Call and yield the answers as they come. Closing the iterator cancels the call."""
        call = rpc(request, timeout=timeout_s, metadata=self.metadata)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as failure:
            raise self.error(failure) from None
        finally:
            call.cancel()

    def error(self, failure: grpc.aio.AioRpcError) -> RetinueError:
        """The RetinueError of a failed call of this service; CancelledError in a task that is cancelled.

        grpc.aio swallows the cancellation where the call fails at the same time: who calls again after a
        failure would never end.
        """
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError
        error = error_from_rpc(failure)
        if isinstance(error, ServiceUnavailableError) and not error.facts:
            return ServiceUnavailableError(
                f"cannot reach the {self.service} at {self.address}: {failure.details()}",
                service=self.service,
                address=self.address,
            )
        return error


@asynccontextmanager
async def open_channel(service: str, address: str, access: Access) -> AsyncIterator[ServiceChannel]:
    """Open a channel to a service. Nothing is connected before the first call."""
    if access.tls or access.ca_file:
        roots = access.ca_file.read_bytes() if access.ca_file else None
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
    else:
        channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
    async with channel:
        yield ServiceChannel(channel, service, address, access)
