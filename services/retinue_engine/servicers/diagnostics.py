"""DiagnosticsService on the wire: whether what runs will need is there, where this engine runs."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from retinue.client import Components, ServiceChannel
from retinue.common.v1.secret_pb2 import SecretProblem
from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.registry.v1.component_pb2 import (
    COMPONENT_KIND_CUSTOM_WORKFLOW,
    COMPONENT_KIND_LLM,
    Component,
)
from retinue_engine.definition import secret_fields
from retinue_kit.allowed import Allowed
from retinue_kit.secret_problems import secret_problems

SERVICE = "retinue.engine.v1.DiagnosticsService"

Context = grpc.aio.ServicerContext[Any, Any]


class DiagnosticsServicer(service_pb2_grpc.DiagnosticsServiceServicer):
    """Looks at the llms and custom workflows of a namespace as a run would use them."""

    def __init__(self, registry: ServiceChannel, allowed: Allowed) -> None:
        self._registry = registry
        self._allowed = allowed

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        service_pb2_grpc.add_DiagnosticsServiceServicer_to_server(self, server)

    async def CheckSecrets(
        self, request: service_pb2.CheckSecretsRequest, _context: Context
    ) -> service_pb2.CheckSecretsResponse:
        """Return the secrets of llms and custom workflows that do not resolve, or are not allowed."""
        components = Components(self._registry, request.namespace or "default")
        found = [
            each
            for kind in (COMPONENT_KIND_LLM, COMPONENT_KIND_CUSTOM_WORKFLOW)
            async for each in components.list(kind, page_size=1000)
        ]
        return service_pb2.CheckSecretsResponse(problems=await asyncio.to_thread(self._problems, found))

    def _problems(self, components: Sequence[Component]) -> list[SecretProblem]:
        return [
            problem
            for each in components
            for problem in secret_problems(
                each.WhichOneof("spec") or "",
                each.name,
                _secret_fields(each),
                self._allowed if each.source.HasField("api") else None,
            )
        ]


def _secret_fields(component: Component) -> dict[str, str]:
    if component.HasField("custom_workflow"):
        return {f"env.{name}": text for name, text in component.custom_workflow.env.items()}
    return secret_fields(component.llm.api_key, component.llm.headers)
