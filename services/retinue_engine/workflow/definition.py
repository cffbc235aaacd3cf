"""What a workflow run runs, resolved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from retinue.registry.v1.component_pb2 import ComponentKind
from retinue_engine.definition import Budget, Server

PASSING = frozenset(
    (
        "LLM_INVALID_RESPONSE",
        "LLM_RATE_LIMITED",
        "LLM_TIMEOUT",
        "LLM_UNAVAILABLE",
        "MCP_SERVER_BUSY",
        "MCP_SERVER_UNAVAILABLE",
        "MCP_TIMEOUT",
        "RUN_TIMEOUT",
        "SERVICE_UNAVAILABLE",
        "STEP_TIMEOUT",
    )
)
"""Reasons of errors that may pass by themselves."""

ATTEMPTS = 3
"""Of a step with a `retry` that names no number; one without has a single try."""
BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
CONCURRENCY = 16
"""Nodes of a graph at work at a time."""
BRANCHES = 8
"""Of one `each`, at a time."""
ROUNDS = 10
MEMORIES = 10
"""Texts that one read finds."""


@dataclass(frozen=True, slots=True)
class RunAction:
    """Asks an agent or a workflow."""

    kind: ComponentKind.ValueType
    name: str
    version: int
    input: str | None
    """A template; None: the last output."""


@dataclass(frozen=True, slots=True)
class ToolAction:
    """Calls a tool."""

    server: Server
    tool: str
    arguments: Mapping[str, Any]
    """Each text in it is a template."""


@dataclass(frozen=True, slots=True)
class TransformAction:
    """Works a value out; one of the two is set."""

    expression: str = ""
    template: str = ""


@dataclass(frozen=True, slots=True)
class AskAction:
    """Asks a person or another system."""

    question: str
    """A template."""
    schema_json: str
    """Of the answer; empty: a text."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class FailAction:
    """Fails the workflow."""

    message: str
    """A template."""


@dataclass(frozen=True, slots=True)
class RouteDefinition:
    """One way on."""

    name: str
    when: str
    """CEL; empty where an agent chooses."""
    description: str


@dataclass(frozen=True, slots=True)
class RouterAction:
    """Chooses among routes."""

    routes: tuple[RouteDefinition, ...]
    default: str
    chooser: RunAction | None
    """The agent that chooses; None: the expressions do."""


@dataclass(frozen=True, slots=True)
class EachAction:
    """The same for each item of a list."""

    items: str
    """CEL."""
    action: "RunAction | ToolAction"
    concurrency: int
    policy: Literal["fail_fast", "wait_all", "continue"]
    quorum: int | None
    """With so many the step is done; None: with all."""
    branch_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class LoopAction:
    """The same again and again."""

    action: "RunAction | ToolAction"
    until: str
    """CEL."""
    max_rounds: int


@dataclass(frozen=True, slots=True)
class FailoverAction:
    """One of several, in order, until one succeeds."""

    choices: tuple["RunAction | ToolAction", ...]
    errors: frozenset[str]
    """Reasons after which the next is tried; empty: all."""


@dataclass(frozen=True, slots=True)
class MemoryWriteAction:
    """Keeps a text."""

    text: str
    """A template."""
    labels: Mapping[str, str]
    """Each value is a template."""
    expire_after_s: float | None


@dataclass(frozen=True, slots=True)
class MemoryReadAction:
    """Finds texts that were kept."""

    query: str
    """A template; empty: the newest."""
    labels: Mapping[str, str]
    """Each value is a template."""
    limit: int


Action = (
    RunAction
    | ToolAction
    | TransformAction
    | AskAction
    | FailAction
    | RouterAction
    | EachAction
    | LoopAction
    | FailoverAction
    | MemoryWriteAction
    | MemoryReadAction
)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried."""

    attempts: int = 1
    backoff_s: float = BACKOFF_S
    max_backoff_s: float = MAX_BACKOFF_S
    errors: frozenset[str] = PASSING


@dataclass(frozen=True, slots=True)
class JoinDefinition:
    """When a node that several edges lead to begins."""

    mode: Literal["clear", "all", "any", "quorum"] = "clear"
    """clear: once it is clear of all edges whether they are taken, and one is."""
    quorum: int = 0
    cancel_rest: bool = False
    timeout_s: float | None = None
    """From the first edge that is taken."""
    merge: Literal["first", "list", "object"] = "first"
    """What the node is asked where it has no input."""


@dataclass(frozen=True, slots=True)
class StepDefinition:
    """One step, or one node of a graph."""

    name: str
    action: Action
    condition: str = ""
    """CEL; empty: it always runs."""
    timeout_s: float | None = None
    """For one try."""
    retry: Retry = Retry()
    policy: Literal["fail", "continue", "fallback"] = "fail"
    fallback: Action | None = None
    goes_on: bool = False
    """Whether the graph goes on where it fails for good, its fallback too."""
    output: str = ""
    """CEL; empty: the structured result, else the text."""
    join: JoinDefinition = JoinDefinition()
    changes: Mapping[str, str] = field(default_factory=dict)
    """What it sets in the state, each by CEL."""


@dataclass(frozen=True, slots=True)
class EdgeDefinition:
    """A way from one node to another."""

    source: str
    target: str
    after: Literal["success", "failure", "always"] = "success"
    when: str = ""
    """CEL; empty: always."""
    route: str = ""
    """The router's route that takes it; empty: it leads from no router."""


@dataclass(frozen=True)
class WorkflowDefinition:
    """A workflow with all that it needs."""

    name: str
    version: int
    steps: tuple[StepDefinition, ...]
    output: str = ""
    """CEL; empty: the last output."""
    input_schema_json: str = ""
    """Empty: the input is text."""
    timeout_s: float | None = None
    budget: Budget = field(default_factory=Budget)
    session_budget: Budget = field(default_factory=Budget)
    edges: tuple[EdgeDefinition, ...] | None = None
    """None: it is linear."""
    concurrency: int = CONCURRENCY
    waits_for_all: bool = False
    """Whether a graph whose node failed waits for the nodes that are at work."""
    state_json: str = ""
    """What the state begins with; empty: nothing."""
    on_conflict: Literal["error", "last", "merge"] = "error"
    """What becomes of what nodes have set side by side."""

    @cached_property
    def by_name(self) -> Mapping[str, StepDefinition]:
        """The steps by their names."""
        return {step.name: step for step in self.steps}
