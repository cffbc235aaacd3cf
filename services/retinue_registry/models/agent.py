"""The rules of an agent."""

from typing import Annotated

from pydantic import AfterValidator

from retinue_registry.models.fields import Count, Duration, Name, RefersTo, Spec, Text, once_each
from retinue_registry.models.llm import GenerationSettings


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
