"""All variables of Retinue by name, so that one that nobody reads is told and not silently passed over."""

from collections.abc import Iterable
from difflib import get_close_matches

PREFIX = "RETINUE_"

VARIABLES = frozenset(
    PREFIX + name
    for name in (
        # Of every service.
        *(
            "TOKEN",
            "TLS_CERT_FILE",
            "TLS_KEY_FILE",
            "TLS",
            "TLS_CA_FILE",
            "INSECURE",
            "LOG_LEVEL",
            "LOG_FORMAT",
        ),
        *("MAX_REQUEST_BYTES", "CALL_TIMEOUT_S", "STOP_ON_STDIN_EOF", "STOP_GRACE_S", "CLOSE_TIMEOUT_S"),
        *("REGISTRY_ADDRESS", "REGISTRY_METRICS_ADDRESS", "MCP_HOST_ADDRESS", "MCP_HOST_METRICS_ADDRESS"),
        *("ENGINE_ADDRESS", "ENGINE_METRICS_ADDRESS"),
        # Of one.
        *("PROJECT", "DATA_DIR", "WATCH_HEARTBEAT_S", "WATCH_QUEUE_SIZE"),
        *("USER_DIR", "WATCH_FILES", "WATCH_FILES_POLL"),
        *("REGISTRY_STORE", "RETAIN_VERSIONS", "RETAIN_REQUESTS_HOURS"),
        *("MAX_RESULT_BYTES", "MAX_SERVER_MESSAGE_BYTES", "MAX_STREAM_CALLS", "MAX_CONNECTIONS"),
        *("PREWARM_NAMESPACES", "LOGINS_FILE"),
        *("STORE", "LEASE_S", "MAX_ACTIVE_RUNS", "MAX_QUEUED_RUNS", "MAX_DEPTH"),
        *("HEARTBEAT_S", "RETAIN_DAYS", "RETAIN_SESSIONS"),
        *("WORKERS_AHEAD", "MAX_WORKERS", "WORKER_MEMORY_BYTES", "WORKER_CONNECT_S"),
        *("API_ENV", "API_FILES", "API_HOSTS", "API_COMMANDS", "API_MODULES"),
        # Of the `retinue` command and of the Node client.
        *("DEBUG", "PROTOS"),
    )
)


def unknown_variables(names: Iterable[str]) -> dict[str, str | None]:
    """Those that look like one of Retinue and are none, with the nearest that is.

    A warning and no error: Kubernetes sets RETINUE_ENGINE_PORT and the like for services of its own.
    """
    unknown = sorted({name for name in names if name.startswith(PREFIX)} - VARIABLES)
    return {name: next(iter(get_close_matches(name, VARIABLES, 1)), None) for name in unknown}
