"""The rules of each kind of component: one pydantic model a kind, for files and for the API alike."""

from retinue_registry.models.agent import AgentSpec
from retinue_registry.models.custom_workflow import CustomWorkflowSpec
from retinue_registry.models.fields import Spec
from retinue_registry.models.graph_workflow import GraphWorkflowSpec
from retinue_registry.models.linear_workflow import LinearWorkflowSpec
from retinue_registry.models.llm import LlmSpec
from retinue_registry.models.mcp_server import McpServerSpec

__all__ = [
    "AgentSpec",
    "CustomWorkflowSpec",
    "GraphWorkflowSpec",
    "LinearWorkflowSpec",
    "LlmSpec",
    "McpServerSpec",
    "Spec",
]
