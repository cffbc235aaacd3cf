"""What a server says unasked, told to those whom it concerns; one for each connection."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
import structlog

log = structlog.get_logger()

TOOLS_CHANGED = "notifications/tools/list_changed"
LISTS_CHANGED = {
    "notifications/resources/list_changed": "resources",
    "notifications/prompts/list_changed": "prompts",
}
RESOURCE_UPDATED = "notifications/resources/updated"
MESSAGE = "notifications/message"

MAX_LOG_BYTES = 16 * 1024
"""Of one log message; the rest is cut."""
_MAX_LOGGER_CHARS = 256

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
"""MCP's, the least grave first (RFC 5424)."""


class Log(Protocol):
    """Where log messages go, and which are wanted."""

    @property
    def level(self) -> str:
        """The least grave level that is wanted."""

    def add(self, level: str, logger: str, message: str) -> None:
        """Take a message: its level, which part of the server says it, and what."""

    def add_lines(self, lines: Sequence[str], dropped: int = 0) -> None:
        """Take lines of the server's stderr, and how many before them are lost."""

    def hide(self, secrets: Sequence[str]) -> None:
        """Never show these."""

    def listen(self, on_level: Callable[[str], None]) -> None:
        """Tell when another level is wanted."""

    def unlisten(self, on_level: Callable[[str], None]) -> None:
        """Tell it no more."""


class Notices:
    """Takes notifications as they come. None of those who are told may block."""

    def __init__(
        self,
        *,
        on_tools_changed: Callable[[], None],
        on_gone: Callable[[], None],
        log: Log | None = None,
    ) -> None:
        self.on_tools_changed = on_tools_changed
        self.on_gone = on_gone
        self.log = log
        self.on_resource: Callable[[str], None] | None = None
        """Told of a resource, by its address, that may hold something else."""

    def take(self, method: str, params: Mapping[str, Any] | None) -> None:
        """Tell what a notification says; one that is out of shape or of another kind says nothing."""
        if method == TOOLS_CHANGED:
            self.on_tools_changed()
        elif method in LISTS_CHANGED:
            # These are read at each request, so that nothing has to be forgotten.
            log.debug("a list of a server has changed", list=LISTS_CHANGED[method])
        elif method == RESOURCE_UPDATED and params:
            uri = params.get("uri")
            if isinstance(uri, str) and self.on_resource is not None:
                self.on_resource(uri)
        elif method == MESSAGE and params:
            self._log(params)

    def _log(self, params: Mapping[str, Any]) -> None:
        if self.log is None:
            return
        level, logger = params.get("level"), params.get("logger")
        self.log.add(
            level if level in LOG_LEVELS else "info",
            logger[:_MAX_LOGGER_CHARS] if isinstance(logger, str) else "",
            _log_text(params.get("data")),
        )


def _log_text(data: Any) -> str:
    """What is logged: a text as it is, all else as JSON."""
    if not isinstance(data, str):
        try:
            data = orjson.dumps(data).decode()
        except orjson.JSONEncodeError:
            data = repr(data)
    if len(data) > MAX_LOG_BYTES:
        return f"{data[:MAX_LOG_BYTES]} [cut by Retinue: it has {len(data)} characters]"
    return str(data)
