"""What the host talks about: servers, their tools, calls of them and what comes back. Data, no behaviour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from retinue.errors import RetinueError
from retinue_kit.allowed_hosts import Reach
from retinue_mcp_host.calls.access import ALL_TOOLS, ToolAccess

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
class TlsFiles:
    """How a TLS connection is made: paths of PEM files, empty where the system's defaults hold."""

    ca_file: str = ""
    """What to trust, in place of the system's certificates."""
    cert_file: str = ""
    """What to show; with key_file."""
    key_file: str = ""


Grant = Literal["client_credentials", "authorization_code", "jwt_bearer"]


@dataclass(frozen=True, slots=True)
class OAuth:
    """How a token for a server is asked for."""

    issuer: str = ""
    """The authorization server: a secret goes to no other. Empty: the one that the server names."""
    client_id: str = ""
    """Empty: client_metadata_url, or a client that registers itself."""
    client_secret: str = field(default="", repr=False)
    """A secret reference, not yet resolved; this or private_key."""
    private_key: str = field(default="", repr=False)
    """The same, to a key in PEM."""
    algorithm: str = "RS256"
    """How private_key signs."""
    scopes: tuple[str, ...] = ()
    """Empty: what the server, or its authorization server, names."""
    grant: Grant = "client_credentials"
    client_metadata_url: str = ""
    redirect_uri: str = ""
    """Where a browser goes after a login; empty: where whoever asks for the login says."""
    assertion: str = field(default="", repr=False)
    """A secret reference, not yet resolved, to a signed statement of the platform."""
    identity_provider: str = ""
    """Token endpoint where the statement, then of a person, is exchanged; empty: it is shown as it is."""
    identity_client_id: str = ""
    identity_client_secret: str = field(default="", repr=False)
    """A secret reference, not yet resolved, to what that client shows there."""
    require_dpop: bool = False
    """Whether tokens are bound to a key even where the server does not ask for it."""


@dataclass(frozen=True, slots=True)
class HttpTransport:
    """A server elsewhere that speaks streamable HTTP."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret references, not yet resolved."""
    tls: TlsFiles = TlsFiles()
    oauth: OAuth | None = None


@dataclass(frozen=True, slots=True)
class SseTransport:
    """A server elsewhere that speaks HTTP+SSE, as revision 2024-11-05 had it."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Secret references, not yet resolved."""
    tls: TlsFiles = TlsFiles()
    oauth: OAuth | None = None


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """One version of one server's config."""

    namespace: str
    name: str
    version: int
    transport: StdioTransport | HttpTransport | SseTransport
    connect_timeout_s: float = 30.0
    call_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0
    allow_sampling: bool = False
    """Whether the server may ask the caller's model for text."""
    scope: Literal["shared", "session", "run"] = "shared"
    """Who has a connection together: all, the runs of a session, or the runs of a tree."""
    max_concurrent_calls: int = 64
    """Under way on one connection."""
    max_queued_calls: int = 1000
    """Waiting for their turn on one connection."""
    roots: tuple[str, ...] = ()
    """Where the server is told that it may work: `file://` addresses."""
    reach: Reach | None = None
    """Where its url may lead; None: anywhere, as it stands in the operator's file."""
    revision: str = ""
    """Of MCP, in which it is spoken to first; empty: what it spoke last."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says about itself when it is connected."""

    name: str
    version: str
    instructions: str
    revision: str
    """Of MCP, as agreed on: `2025-11-25`."""
    tools: bool
    resources: bool
    resource_subscriptions: bool
    prompts: bool
    completions: bool
    logging: bool


SHARED = ""
"""The scope of a connection that all callers share."""


class ConnectionKey(NamedTuple):
    """What a connection is for; there is one at most for each key."""

    namespace: str
    server: str
    version: int
    scope: str
    """The session or root run that it is for; SHARED for the connection that all share."""


class CallerScope(NamedTuple):
    """Who asks, where connections are not shared; empty outside of sessions and runs."""

    session_id: str = ""
    root_run_id: str = ""


NO_SCOPE = CallerScope()


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
    accepts_elicitation: bool = False
    accepts_sampling: bool = False
    """What the caller can answer where the server asks in the middle of the call."""
    access: ToolAccess = ALL_TOOLS
    """The tools that the caller has."""
    scope: CallerScope = NO_SCOPE
    """Whose connection it takes, where the server's is not shared."""
    caller: str = ""
    """Where it came from, for logs: the address of who called the host."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call is."""

    progress: float
    total: float | None
    message: str


OnProgress = Callable[[Progress], None]
"""Told of each progress of a call, in order; must not block."""


@dataclass(frozen=True, slots=True)
class Elicitation:
    """A server asks a person to fill in a form."""

    message: str
    schema_json: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """A server asks a model to go on with a conversation."""

    params_json: str
    """MCP's params of sampling/createMessage, as they came."""


Question = Elicitation | Sampling


@dataclass(frozen=True, slots=True)
class ServerRequest:
    """What a server asks in the middle of a call, until it expires."""

    request_id: str
    expire_us: int
    """Since 1970."""
    question: Question
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ServerRequestClosed:
    """A request that nobody needs to answer any more, while its call goes on."""

    request_id: str


@dataclass(frozen=True, slots=True)
class ElicitationAnswer:
    """What a person said."""

    action: Literal["accept", "decline", "cancel"]
    content_json: str
    """A JSON object where they accept."""


@dataclass(frozen=True, slots=True)
class SamplingAnswer:
    """What a model said."""

    result_json: str
    """MCP's CreateMessageResult."""


@dataclass(frozen=True, slots=True)
class AnswerFailure:
    """Why there is no answer."""

    message: str


Answer = ElicitationAnswer | SamplingAnswer | AnswerFailure

OnRequest = Callable[[ServerRequest | ServerRequestClosed], None]
"""Told what the server of a call asks, and what it asks no more; must not block."""


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


Update = Progress | ServerRequest | ServerRequestClosed | ToolResult | RetinueError
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
    """Of one tool call's result, and of one thing that a server asks."""
    max_server_message_bytes: int
    """Of one message."""
