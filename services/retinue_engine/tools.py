"""What the agent loop knows of tools: their list as a model sees it, a call, an answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from retinue_engine.definition import Server


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of an MCP server."""

    server: Server
    name: str
    read_only: bool
    idempotent: bool

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


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A call to make."""

    namespace: str
    tool: Tool
    arguments_json: str
    idempotency_key: str
    run_id: str


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What a tool answered."""

    text: str
    structured_json: str
    is_error: bool
    """The tool says that it failed."""


OnProgress = Callable[[float, float | None, str], None]
"""Takes progress, the total where the server knows it, and a word from the server."""


class Toolbox(Protocol):
    """Where tools are listed and called."""

    async def list_tools(self, namespace: str, servers: Sequence[Server]) -> ToolList:
        """The tools of servers. Raises the error of the first server that cannot be listed."""

    async def call_tool(self, request: ToolRequest, on_progress: OnProgress) -> ToolAnswer:
        """Call a tool. Raises a RetinueError where there is no answer. Cancelling cancels the call."""


NO_TOOLS = ToolList({}, ())
