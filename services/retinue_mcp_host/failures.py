"""The errors of servers that can not be used, worded once, with the end of their stderr."""

from collections.abc import Callable

from retinue.errors import McpLoginRequiredError, McpServerUnavailableError, McpTimeoutError
from retinue_mcp_host.model import ServerSpec

STDERR_IN_FACTS_BYTES = 2048
STDERR_IN_MESSAGE_BYTES = 512
"""gRPC carries an error in the trailers of a call, 8 KiB of them: only the end of stderr goes in."""

Stderr = Callable[[int], str]
"""The last lines of a server's stderr, in at most so many bytes; empty where it has none."""


class SessionLostError(McpServerUnavailableError):
    """The server has forgotten the session and not taken the request: it can be sent again on a new one."""


class SaysWhyError(Exception):
    """A transport's error whose message says by itself why a server can not be used."""


def why_unreachable(error: BaseException) -> str:
    """What to say of a server to which a request could not be sent."""
    if isinstance(error, SaysWhyError):
        return str(error)
    return f"cannot be reached: {type(error).__name__}: {error}"


def no_stderr(max_bytes: int) -> str:
    """What a server says on stderr that runs elsewhere, or was not started."""
    del max_bytes
    return ""


def unavailable(spec: ServerSpec, why: str, stderr: Stderr = no_stderr) -> McpServerUnavailableError:
    """A server that could not be started or reached, or died."""
    return McpServerUnavailableError(
        f"MCP server {spec.name} {why}{_ends_with(stderr)}",
        server=spec.name,
        namespace=spec.namespace,
        stderr=stderr(STDERR_IN_FACTS_BYTES) or None,
    )


def connect_timeout(spec: ServerSpec, stderr: Stderr = no_stderr) -> McpTimeoutError:
    """A server that did not finish the handshake in time."""
    return McpTimeoutError(
        f"MCP server {spec.name} did not finish the MCP handshake in {spec.connect_timeout_s:g} s: raise the "
        f"server's connect_timeout if it needs longer{_ends_with(stderr)}",
        server=spec.name,
        namespace=spec.namespace,
        timeout_s=f"{spec.connect_timeout_s:g}",
        stderr=stderr(STDERR_IN_FACTS_BYTES) or None,
    )


def call_timeout(spec: ServerSpec, what: str) -> McpTimeoutError:
    """A server that did not answer a request in time."""
    return McpTimeoutError(
        f"MCP server {spec.name} did not answer {what} in {spec.call_timeout_s:g} s: raise the server's "
        "call_timeout if it needs longer",
        server=spec.name,
        namespace=spec.namespace,
        timeout_s=f"{spec.call_timeout_s:g}",
    )


def login_required(spec: ServerSpec, missing_scopes: str = "") -> McpLoginRequiredError:
    """A server to which nobody has logged in, or with too few scopes."""
    where = f" --namespace {spec.namespace}" if spec.namespace != "default" else ""
    more = f" that grants more: {missing_scopes}" if missing_scopes else ""
    return McpLoginRequiredError(
        f"MCP server {spec.name} wants a login{more}: run `retinue login {spec.name}{where}`",
        server=spec.name,
        namespace=spec.namespace,
        missing_scopes=missing_scopes or None,
    )


def _ends_with(stderr: Stderr) -> str:
    text = stderr(STDERR_IN_MESSAGE_BYTES)
    return f"; its stderr ends with: {text}" if text else ""
