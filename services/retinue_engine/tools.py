"""What the agent loop knows of tools: their list as a model sees it, a call, an answer."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from retinue_engine.definition import ALL_TOOLS, Server, ToolAccess


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of an MCP server."""

    server: Server
    name: str
    read_only: bool
    idempotent: bool
    destructive: bool = True
    """Whether what it changes may be lost; so, unless its server says otherwise (MCP, ToolAnnotations)."""
    access: ToolAccess = ALL_TOOLS
    """The tools that the agent has for which it was listed; the host asks for it at each call."""

    @property
    def repeatable(self) -> bool:
        """Whether a call that may have happened can be made again."""
        return self.read_only or self.idempotent


@dataclass(frozen=True, slots=True)
class ToolList:
    """The tools that an agent may call."""

    by_name: Mapping[str, Tool]
    """By the name that the model is shown. No decision is made by taking such a name apart."""
    functions: Sequence[Mapping[str, Any]]
    """The same, in the OpenAI format."""


class CallerScope(NamedTuple):
    """Whose connections are meant, where a server's are not shared by all."""

    session_id: str = ""
    root_run_id: str = ""


NO_SCOPE = CallerScope()


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call to make."""

    namespace: str
    tool: Tool
    arguments_json: str
    idempotency_key: str
    run_id: str
    """The root of the run's tree."""
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class ToolBlob:
    """An image, a sound or a file of a result."""

    mime_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered."""

    text: str
    structured_json: str
    is_error: bool
    """The tool says that it failed."""
    blobs: Sequence[ToolBlob] = ()
    """In the order in which the text names them."""


OnProgress = Callable[[float, float | None, str], None]
"""Takes progress, the total where the server knows it, and a word from the server."""


@dataclass(frozen=True, slots=True)
class Elicitation:
    """A server asks a person to fill in a form, in the middle of a call."""

    message: str
    schema_json: str
    expire_us: int
    """When the host declines it."""
    server: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """A server asks a model to go on with a conversation, in the middle of a call."""

    params_json: str
    """MCP's params of sampling/createMessage, as they came."""
    expire_us: int
    """When the host refuses it."""
    server: str


ServerAsks = Elicitation | Sampling


@dataclass(frozen=True, slots=True)
class ElicitationAnswer:
    """What a person said."""

    action: Literal["accept", "decline", "cancel"]
    content_json: str = ""
    """A JSON object that fits the schema, where they accept."""


@dataclass(frozen=True, slots=True)
class SamplingAnswer:
    """What a model said."""

    result_json: str
    """MCP's CreateMessageResult: role, content, model."""


@dataclass(frozen=True, slots=True)
class NoServerAnswer:
    """Why the server gets no answer; it reads that."""

    message: str


ServerAnswer = ElicitationAnswer | SamplingAnswer | NoServerAnswer

OnRequest = Callable[[ServerAsks], Awaitable[ServerAnswer]]
"""Answers what the server of a call asks. It is cancelled when the call ends or the question is over.

A RetinueError that it raises ends the call with that error.
"""


class Toolbox(Protocol):
    """Where tools are listed and called."""

    async def list_tools(
        self,
        namespace: str,
        servers: Sequence[Server],
        access: ToolAccess = ALL_TOOLS,
        scope: CallerScope = NO_SCOPE,
    ) -> ToolList:
        """The tools of servers that an agent has, on the connections of a scope.

        Raises the error of the first server that cannot be listed.
        """

    async def call_tool(
        self, request: ToolRequest, on_progress: OnProgress, on_request: OnRequest | None = None
    ) -> ToolAnswer:
        """Call a tool. Raises a RetinueError where there is no answer. Cancelling cancels the call.

        Without `on_request` the server is told that nobody can be asked. Time in which an answer is awaited
        does not count in the call's limit.
        """

    def close_scope(self, namespace: str, root_run_id: str) -> None:
        """A run tree has ended: connections that are its own are needed no more."""


NO_TOOLS = ToolList({}, ())
