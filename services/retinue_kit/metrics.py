"""Counts of every service's calls, and the endpoint that Prometheus reads them from."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from retinue_kit.settings import LOOPBACK, host_of

CALLS = Counter("retinue_grpc_calls_total", "Calls that have ended.", ["method", "code"])
CALL_SECONDS = Histogram(
    "retinue_grpc_call_seconds",
    "How long calls took; streams to their end.",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
CALLS_ACTIVE = Gauge("retinue_grpc_calls_active", "Calls under way.", ["method"])


@contextmanager
def open_metrics_endpoint(address: str, service: str) -> Iterator[str | None]:
    """Serve the metrics on a loopback address, and yield it with its port; None where `address` is empty."""
    if not address:
        yield None
        return
    host = host_of(address)
    if host not in LOOPBACK:
        raise ValueError(f"metrics are served on loopback only, not on {address}: use 127.0.0.1:PORT")
    try:
        server, thread = start_http_server(int(address.rpartition(":")[2]), host)
    except OSError as error:
        raise OSError(
            f"cannot serve metrics on {address}: {error.strerror}; stop what is running there, or set "
            f"RETINUE_{service.upper().replace('-', '_')}_METRICS_ADDRESS"
        ) from None
    try:
        yield f"{host}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
