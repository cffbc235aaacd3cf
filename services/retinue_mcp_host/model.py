"""What the host talks about: servers, their tools, calls of them and what comes back. Data, no behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from retinue.errors import RetinueError

Change = Callable[[str, str], None]
"""Told that the tools of a server, by namespace and name, may be others now."""


@dataclass(frozen=True, slots=True)
class StdioTransport:
    """A server that the host starts as a process and talks to over its pipes."""

    command: str
    """A name on PATH, or a path."""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret references, not yet resolved."""
    cwd: str = ""
    """The host's own folder where it is empty."""


@dataclass(frozen=True, slots=True)
class HttpTransport:
    """A server elsewhere that speaks streamable HTTP."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret references, not yet resolved."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One version of one server's config."""

    namespace: str
    name: str
    version: int
    transport: StdioTransport | HttpTransport
    connect_timeout_s: float = 30.0
    call_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0


class ConnectionKey(NamedTuple):
    """What a connection is for; there is one at most for each key."""

    namespace: str
    server: str
    version: int
    scope: str
    """Empty for the connection that all share."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its server lists it."""

    name: str
    title: str
    description: str
    input_schema_json: str
    output_schema_json: str
    """Empty where there is none."""
    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None
    open_world: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of one tool."""

    namespace: str
    server: str
    version: int
    """0 for the current one."""
    tool: str
    arguments_json: str
    """A JSON object; empty is `{}`."""
    idempotency_key: str = ""
    run_id: str = ""
    """The run that calls, for logs; empty outside a run."""
    traceparent: str = ""
    """The trace that the call belongs to, where it has none of its own rpc's."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is."""

    progress: float
    total: float | None
    message: str


OnProgress = Callable[[Progress], None]
"""Told of each progress of a call, in order; must not block."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes with their media type."""

    mime_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ResourceLink:
    """A resource that a server names but does not send."""

    uri: str
    name: str
    mime_type: str


Content = str | Blob | ResourceLink
"""One piece of a result."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered; `is_error` where the tool says that it failed."""

    content: tuple[Content, ...]
    structured_json: str
    is_error: bool
    size_bytes: int
    """Of all pieces together, as they are passed on."""


Update = Progress | ToolResult | RetinueError
"""What happens to a call; a ToolResult or RetinueError is the last of it."""


@dataclass(slots=True)
class Batch:
    """What has happened on a stream of calls since the batch before."""

    updates: list[tuple[int, Update]] = field(default_factory=list)
    """By the number of their call, in order."""
    changed: set[tuple[str, str]] = field(default_factory=set)
    """Servers, by namespace and name, whose tools may be others now."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of what a server sends is taken."""

    max_result_bytes: int
    """Of one tool call's result."""
    max_server_message_bytes: int
    """Of one message."""
