"""Servers, their state and what they log, as messages on the wire."""

from collections.abc import Mapping, Sequence

from retinue.errors import InvalidArgumentError, Violation
from retinue.mcphost.v1 import server_pb2
from retinue_mcp_host.connections.notices import LOG_LEVELS
from retinue_mcp_host.convert import failure_to_proto
from retinue_mcp_host.logins.login import LoginState, LoginView
from retinue_mcp_host.model import ServerInfo
from retinue_mcp_host.servers.log import DEFAULT_LEVEL, LogEntry
from retinue_mcp_host.servers.servers import ConnectionView, ServerView
from retinue_mcp_host.servers.supervision import State

_STATES: Mapping[State, server_pb2.ConnectionState.ValueType] = {
    "connecting": server_pb2.CONNECTION_STATE_CONNECTING,
    "ready": server_pb2.CONNECTION_STATE_READY,
    "closed": server_pb2.CONNECTION_STATE_CLOSED,
    "failed": server_pb2.CONNECTION_STATE_FAILED,
    "broken": server_pb2.CONNECTION_STATE_BROKEN,
}
_LOGIN_STATES: Mapping[LoginState, server_pb2.LoginState.ValueType] = {
    "logged_out": server_pb2.LOGIN_STATE_LOGGED_OUT,
    "required": server_pb2.LOGIN_STATE_REQUIRED,
    "logged_in": server_pb2.LOGIN_STATE_LOGGED_IN,
}
_LEVELS = {level: server_pb2.LogLevel.ValueType(number) for number, level in enumerate(LOG_LEVELS, 1)}


def server_to_proto(view: ServerView) -> server_pb2.Server:
    """A server with its connections."""
    component = view.component
    message = server_pb2.Server(
        name=component.name,
        version=component.version,
        labels=component.labels,
        description=component.mcp_server.description,
        connections=[_connection(each) for each in view.connections],
    )
    if view.info is not None:
        _add_info(message, view.info)
    if view.login is not None:
        _add_login(message.login, view.login)
    return message


def _add_login(message: server_pb2.ServerLogin, view: LoginView) -> None:
    message.state = _LOGIN_STATES[view.state]
    message.missing_scopes.extend(view.missing_scopes.split())
    if view.login is not None:
        message.issuer = view.login.issuer
        message.scopes.extend(view.login.scope.split())
        message.login_time.FromMicroseconds(view.login.login_us)


def _add_info(message: server_pb2.Server, info: ServerInfo) -> None:
    message.capabilities.tools = info.tools
    message.capabilities.resources = info.resources
    message.capabilities.resource_subscriptions = info.resource_subscriptions
    message.capabilities.prompts = info.prompts
    message.capabilities.completions = info.completions
    message.capabilities.logging = info.logging
    message.protocol_version = info.revision
    message.server_name = info.name
    message.server_version = info.version
    message.instructions = info.instructions


def _connection(view: ConnectionView) -> server_pb2.ServerConnection:
    health = view.health
    message = server_pb2.ServerConnection(
        version=health.key.version,
        scope_id=health.key.scope,
        state=_STATES[health.state],
        restarts=health.restarts,
        failures=health.failures,
        last_failure=failure_to_proto(health.last_failure) if health.last_failure is not None else None,
        stderr=view.stderr,
        process_id=view.process_id,
        calls=view.calls,
        queued_calls=view.queued_calls,
    )
    message.since.FromMicroseconds(health.since_us)
    if health.retry_us:
        message.retry_time.FromMicroseconds(health.retry_us)
    return message


def log_level_from_proto(level: int) -> str:
    """The level as MCP's word; info where it is not set. Raises InvalidArgumentError."""
    if level == server_pb2.LOG_LEVEL_UNSPECIFIED:
        return DEFAULT_LEVEL
    if not 0 < level <= len(LOG_LEVELS):
        raise InvalidArgumentError(
            f"there is no log level {level}", violations=[Violation("level", "must be a LogLevel")]
        )
    return LOG_LEVELS[level - 1]


def entries_to_proto(entries: Sequence[LogEntry]) -> list[server_pb2.ServerLogEntry]:
    """What a server logged."""
    return [_entry(each) for each in entries]


def _entry(entry: LogEntry) -> server_pb2.ServerLogEntry:
    message = server_pb2.ServerLogEntry(
        level=_LEVELS.get(entry.level, server_pb2.LOG_LEVEL_UNSPECIFIED),
        logger=entry.logger,
        message=entry.message,
        scope_id=entry.scope,
    )
    message.time.FromMicroseconds(entry.time_us)
    return message
