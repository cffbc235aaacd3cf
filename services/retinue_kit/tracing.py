"""The trace that a call belongs to: taken from its caller, passed on to whom it calls in turn."""

from contextvars import Token

from opentelemetry import context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"

_propagator = TraceContextTextMapPropagator()


def enter_trace(traceparent: str) -> "Token[context.Context]":
    """Make a caller's trace the current one, for logs and for calls of other services."""
    return context.attach(_propagator.extract({TRACEPARENT: traceparent}))


def leave_trace(entered: "Token[context.Context]") -> None:
    """Leave it again."""
    context.detach(entered)


def current_traceparent() -> str | None:
    """The current trace in W3C form; None outside one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get(TRACEPARENT)
