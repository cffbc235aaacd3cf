"""What a run runs, resolved: settings merged run over agent over llm over defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from retinue_engine.llm.model import Endpoint, Generation
from retinue_engine.llm.pricing import Price
from retinue_kit.secrets import resolve_secret

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

    def endpoint(self) -> Endpoint:
        """The endpoint, its secrets resolved here and now. Raises SecretNotFoundError."""
        place = f"llms.{self.name}"
        return Endpoint(
            model=self.model,
            base_url=self.base_url,
            api_key=resolve_secret(self.api_key, field=f"{place}.api_key") if self.api_key else None,
            headers={
                name: resolve_secret(value, field=f"{place}.headers.{name}")
                for name, value in self.headers.items()
            },
            timeout_s=self.timeout_s,
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
    """An agent that another may call as a tool."""

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
