"""What a run runs, resolved: settings merged run over agent over llm over defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from retinue.registry.v1.component_pb2 import ComponentKind
from retinue_engine.llm.model import Endpoint, Generation
from retinue_engine.llm.pricing import Price
from retinue_kit.allowed import Allowed, Place
from retinue_kit.allowed_hosts import Reach
from retinue_kit.secrets import REFERENCE, resolve_secret

MAX_ITERATIONS = 20
TOOL_CONCURRENCY = 8
LLM_TIMEOUT_S = 120.0
MAX_RETRIES = 2
TOOL_CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 30.0
MAX_REPAIRS = 2
STALL_AFTER = 5
INPUT_TIMEOUT_S = 24 * 60 * 60.0
HOST_GRACE_S = 10.0
"""How much longer than its own limits the host may take to say that a call has failed."""


def secret_fields(api_key: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The fields of an llm that may hold secret references, as they are written."""
    return {"api_key": api_key} | {f"headers.{name}": text for name, text in headers.items()}


@dataclass(frozen=True, slots=True)
class LlmDefinition:
    """A model and how to reach it; its secrets are still references."""

    name: str
    model: str
    transport: Literal["direct", "litellm"]
    protocol: Literal["openai_chat"] | None
    base_url: str | None
    api_key: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    generation: Generation
    """How it writes: the run's settings over the agent's over its own."""
    timeout_s: float
    price: Price
    max_retries: int
    structured_output: Literal["auto", "native", "instruction"]
    """How it is made to answer in JSON of a schema."""
    by_api: bool = False
    """Whether it came by API, and not from a file."""

    def endpoint(self, allowed: Allowed) -> Endpoint:
        """The endpoint, its secrets resolved here and now.

        Raises SecretNotFoundError, ComponentNotAllowedError.
        """
        fields = secret_fields(self.api_key, self.headers)
        reach: Reach | None = None
        if self.by_api:
            # Before anything is looked at: whether a variable is set is nothing to be told either.
            for name, text in fields.items():
                allowed.check_secret(Place("llm", self.name, name), text)
            secret = any(map(REFERENCE.search, fields.values()))
            reach = allowed.reach(Place("llm", self.name, "base_url"), secret=secret)
        values: list[str] = []
        resolved = {
            name: resolve_secret(text, field=f"llms.{self.name}.{name}", values=values)
            for name, text in fields.items()
        }
        return Endpoint(
            model=self.model,
            base_url=self.base_url,
            api_key=resolved["api_key"] or None,
            headers={name: resolved[f"headers.{name}"] for name in self.headers},
            timeout_s=self.timeout_s,
            secrets=values,
            reach=reach,
        )


@dataclass(frozen=True, slots=True)
class Server:
    """An MCP server at the version that a run uses."""

    name: str
    version: int
    call_limit_s: float
    """When a call is given up here: the host's own limits come before, unless it hangs."""
    allow_sampling: bool = False
    """Whether it may ask the agent's model."""
    scope: Literal["shared", "session", "run"] = "shared"
    """Who has a connection to it together."""


@dataclass(frozen=True, slots=True)
class ToolSelector:
    """Tools of MCP servers, as the host understands it."""

    server: str
    """Empty: of all servers."""
    tool: str
    """A name, or a pattern with `*` and `?`; empty: all."""


@dataclass(frozen=True, slots=True)
class ToolAccess:
    """Which tools an agent has; the host sees to it, in lists and in calls."""

    allowed: tuple[ToolSelector, ...] = ()
    """Empty: all."""
    excluded: tuple[ToolSelector, ...] = ()


ALL_TOOLS = ToolAccess()


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may use; None is no limit."""

    max_tokens: int | None = None
    max_cost_nano_usd: int | None = None
    max_tool_calls: int | None = None
    max_turns: int | None = None
    max_duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """A rule for some of an agent's tools; of those that fit a tool the first holds."""

    server: str = ""
    """Empty: of all servers."""
    tool: str = ""
    """A pattern with `*` and `?`; empty: all."""
    approval: Literal["never", "always", "destructive"] = "never"
    interrupted: Literal["auto", "repeat", "ask", "fail"] = "auto"
    """What happens to a call that an engine's stop cut off."""

    def fits(self, server: str, tool: str) -> bool:
        """Whether the rule is about a tool."""
        return self.server in ("", server) and (not self.tool or fnmatchcase(tool, self.tool))


@dataclass(frozen=True, slots=True)
class Callee:
    """An agent or a workflow that an agent may call as a tool."""

    kind: ComponentKind.ValueType
    name: str
    version: int
    description: str


@dataclass(frozen=True, slots=True)
class AgentDefinition:
    """An agent with all that it needs."""

    name: str
    system_prompt: str
    llms: tuple[LlmDefinition, ...]
    """In the order in which they are asked: its own, then those to fall back to; each once."""
    servers: tuple[Server, ...]
    max_iterations: int
    tool_concurrency: int
    include_history: bool
    timeout_s: float | None
    """For the whole run; None: no limit."""
    budget: Budget
    session_budget: Budget = Budget()
    """For all runs of the session together."""
    callees: tuple[Callee, ...] = ()
    policies: tuple[ToolPolicy, ...] = ()
    access: ToolAccess = ALL_TOOLS
    asks_user: bool = False
    output_schema_json: str = ""
    """Empty: the answer is text."""
    max_repairs: int = MAX_REPAIRS
    max_context_tokens: int | None = None
    stall_after: int = STALL_AFTER
    input_timeout_s: float = INPUT_TIMEOUT_S

    def policy(self, server: str, tool: str) -> ToolPolicy:
        """The rule that holds for a tool."""
        return next((each for each in self.policies if each.fits(server, tool)), NO_POLICY)


NO_POLICY = ToolPolicy()
