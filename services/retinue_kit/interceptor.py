"""What happens to every call: token, size, deadline, trace, counts, and errors turned into status codes."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from retinue.errors import (
    DeadlineExceededError,
    InternalError,
    RequestTooLargeError,
    RetinueError,
    ServiceUnavailableError,
    UnauthenticatedError,
)
from retinue.rpc_status import status_from_error
from retinue_kit.metrics import CALL_SECONDS, CALLS, CALLS_ACTIVE
from retinue_kit.settings import ServiceSettings
from retinue_kit.tracing import TRACEPARENT, enter_trace, leave_trace

log = structlog.get_logger()

_PUBLIC = "/grpc.health.v1.Health/"
"""Health may be asked without a token: load balancers do."""

Context = grpc.aio.ServicerContext[Any, Any]


class _Stream:
    """A streaming call under way."""

    def __init__(self, task: "asyncio.Task[Any] | None") -> None:
        self.task = task
        self.sending = False
        """Whether it is in gRPC's hands: cancelled there, the caller is told CANCELLED, and not why."""


class _Oversize:
    """Stands in for a request that was too large to be read."""

    def __init__(self, size: int) -> None:
        self.size = size


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method once; the wrapped ones are kept."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        token = settings.token.get_secret_value() if settings.token else None
        self._authorization = f"Bearer {token}".encode() if token else None
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._streams: set[_Stream] = set()
        self._stopping = False

    def end_streams(self) -> None:
        """End the streaming calls: their callers are told to connect again. New ones are refused."""
        self._stopping = True
        for stream in self._streams:
            if stream.task is not None and not stream.sending:
                stream.task.cancel()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the method's handler with everything around it."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            inner = await continuation(handler_call_details)
            if inner is None:
                return None
            wrapped = self._wrapped[method] = self._wrap(method, inner)
        return wrapped

    def _wrap(
        self, method: str, inner: "grpc.RpcMethodHandler[Any, Any]"
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        limit, read = self._settings.max_request_bytes, inner.request_deserializer

        def deserialize(data: bytes) -> Any:
            return _Oversize(len(data)) if len(data) > limit else read(data) if read else data

        if inner.request_streaming and inner.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, inner.stream_stream),
                inner.request_deserializer,
                inner.response_serializer,
            )
        if inner.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, inner.unary_stream), deserialize, inner.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, inner.unary_unary), deserialize, inner.response_serializer
        )

    def _unary(self, method: str, behaviour: Any) -> Any:
        seconds, active = CALL_SECONDS.labels(method), CALLS_ACTIVE.labels(method)
        ok = CALLS.labels(method, "OK")

        async def call(request: Any, context: Context) -> Any:
            start = time.perf_counter()
            active.inc()
            trace = self._enter(context)
            try:
                self._admit(method, request, context)
                async with asyncio.timeout(self._settings.call_timeout_s):
                    response = await behaviour(request, context)
                ok.inc()
                log.debug("call ended", method=method)
                return response  # noqa: TRY300 - an else block would lose the order of the clauses
            except TimeoutError:
                late = DeadlineExceededError(f"{method} took longer than {self._settings.call_timeout_s} s")
                await _fail(context, method, late)
            except Exception as error:  # noqa: BLE001 - the one place that turns errors into statuses
                await _fail(context, method, error)
            finally:
                _leave(trace)
                active.dec()
                seconds.observe(time.perf_counter() - start)

        return call

    def _stream(self, method: str, behaviour: Any) -> Any:
        seconds, active = CALL_SECONDS.labels(method), CALLS_ACTIVE.labels(method)
        ok = CALLS.labels(method, "OK")

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            start = time.perf_counter()
            active.inc()
            trace = self._enter(context)
            task = asyncio.current_task()
            stream = _Stream(task)
            self._streams.add(stream)
            try:
                self._admit(method, request, context)
                async for response in behaviour(request, context):
                    stream.sending = True
                    yield response
                    stream.sending = False
                    if self._stopping:
                        raise _stopping_error(self._settings)  # noqa: TRY301 - as what the behaviour raises
                ok.inc()
                log.debug("call ended", method=method)
            except asyncio.CancelledError:
                if not self._stopping or task is None:
                    raise
                task.uncancel()
                await _fail(context, method, _stopping_error(self._settings))
            except Exception as error:  # noqa: BLE001 - as above
                await _fail(context, method, error)
            finally:
                self._streams.discard(stream)
                _leave(trace)
                active.dec()
                seconds.observe(time.perf_counter() - start)

        return call

    def _admit(self, method: str, request: Any, context: Context) -> None:
        if self._authorization and not method.startswith(_PUBLIC):
            shown = next((v for k, v in context.invocation_metadata() or () if k == "authorization"), "")
            given = shown if isinstance(shown, bytes) else shown.encode()
            if not hmac.compare_digest(given, self._authorization):
                raise UnauthenticatedError(
                    "this service needs a bearer token: set RETINUE_TOKEN to the service's own"
                )
        if self._stopping and not method.startswith(_PUBLIC):
            raise _stopping_error(self._settings)
        if isinstance(request, _Oversize):
            limit = self._settings.max_request_bytes
            raise RequestTooLargeError(
                f"the request has {request.size} bytes and the service takes {limit}: send less, or raise "
                "RETINUE_MAX_REQUEST_BYTES where the service is started",
                size_bytes=request.size,
                limit_bytes=limit,
            )

    def _enter(self, context: Context) -> Any:
        for key, value in context.invocation_metadata() or ():
            if key == TRACEPARENT:
                return enter_trace(value if isinstance(value, str) else value.decode("ascii", "replace"))
        return None


def _leave(trace: Any) -> None:
    if trace is not None:
        leave_trace(trace)


def _stopping_error(settings: ServiceSettings) -> ServiceUnavailableError:
    return ServiceUnavailableError(
        f"the {settings.service} is stopping: connect again",
        service=settings.service,
        address=settings.address,
    )


async def _fail(context: Context, method: str, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, RetinueError):
        log.error("call failed by a bug", method=method, exc_info=error)
        error = InternalError("internal error; the service's log has the details")
    CALLS.labels(method, error.code.name).inc()
    log.debug("call failed", method=method, code=error.code.name, error=str(error))
    status = status_from_error(error)
    await context.abort(
        error.code, status.message, (("grpc-status-details-bin", status.SerializeToString()),)
    )
