"""The rules of an agent."""

from typing import Annotated

from pydantic import AfterValidator, Field

from retinue_registry.models.fields import (
    INT32_MAX,
    INT64_MAX,
    Count,
    Duration,
    Name,
    Part,
    RefersTo,
    Spec,
    Text,
    once_each,
)
from retinue_registry.models.llm import GenerationSettings


class Budget(Part):
    """What one run may use."""

    max_tokens: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = None
    max_cost_nano_usd: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    max_tool_calls: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = None


class AgentSpec(Spec):
    """An LLM with instructions and tools."""

    description: Text | None = None
    llm: Annotated[Name, RefersTo("llm")]
    system_prompt: Text | None = None
    mcp_servers: Annotated[list[Name], AfterValidator(once_each), RefersTo("mcp_server")] | None = None
    generation: GenerationSettings | None = None
    max_iterations: Count | None = None
    tool_concurrency: Count | None = None
    include_history: bool | None = None
    timeout: Duration | None = None
    fallback_llms: Annotated[list[Name], AfterValidator(once_each), RefersTo("llm")] | None = None
    budget: Budget | None = None
