"""The RegistryService: requests in, the registry's answers out."""

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit
from retinue_registry.component import BATCH_BYTES
from retinue_registry.convert import Answers, problem_to_proto
from retinue_registry.kinds import ORDER
from retinue_registry.plan import Outcome
from retinue_registry.registry import Registry
from retinue_registry.requests import (
    digest,
    read_apply,
    read_key,
    read_kind,
    read_llm,
    read_namespace,
)

Context = grpc.aio.ServicerContext[Any, Any]

_OUTCOMES = {
    Outcome.CREATED: service_pb2.APPLY_OUTCOME_CREATED,
    Outcome.UPDATED: service_pb2.APPLY_OUTCOME_UPDATED,
    Outcome.UNCHANGED: service_pb2.APPLY_OUTCOME_UNCHANGED,
}


class RegistryServicer(service_pb2_grpc.RegistryServiceServicer):
    """Answers for one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._answers = Answers()

    async def GetComponent(
        self, request: service_pb2.GetComponentRequest, _context: Context
    ) -> service_pb2.GetComponentResponse:
        """Return one component."""
        key, version = read_key(request.namespace, request.component, kind_needed=True)
        found = await self._registry.get(key, version)
        return service_pb2.GetComponentResponse(component=self._answers.component(found))

    async def ListComponents(
        self, request: service_pb2.ListComponentsRequest, _context: Context
    ) -> service_pb2.ListComponentsResponse:
        """Return a page of components; it ends early where they are large."""
        namespace, kind = read_namespace(request.namespace), read_kind(request.kind)
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        after = (int(place[0]), str(place[1])) if place else None
        response = service_pb2.ListComponentsResponse(revision=self._registry.revision)
        size = 0
        for version in self._registry.page(namespace, kind or None, after):
            if len(response.components) == limit or size >= BATCH_BYTES:
                response.next_page_token = encode_page_token(after or ())
                break
            response.components.append(self._answers.component(version))
            after = (ORDER[version.key.kind], version.key.name)
            size += len(version.spec)
        return response

    async def ResolveComponent(
        self, request: service_pb2.ResolveComponentRequest, _context: Context
    ) -> service_pb2.ResolveComponentResponse:
        """Return a component and all that it needs."""
        key, version = read_key(request.namespace, request.component, kind_needed=False)
        root, needed, revision = await self._registry.resolve(key, version, read_llm(request.llm))
        return service_pb2.ResolveComponentResponse(
            component=self._answers.component(root),
            dependencies=[self._answers.component(each) for each in needed],
            revision=revision,
        )

    async def ApplyComponents(
        self, request: service_pb2.ApplyComponentsRequest, _context: Context
    ) -> service_pb2.ApplyComponentsResponse:
        """Store a set of components."""
        applied = await self._registry.changing.apply(
            # In a thread: the largest schemas and templates take half a second to check.
            await asyncio.to_thread(read_apply, request),
            namespace=read_namespace(request.namespace),
            request_id=request.request_id,
            digest=digest(request),
        )
        return service_pb2.ApplyComponentsResponse(
            applied=[
                service_pb2.AppliedComponent(
                    component=self._answers.component(version), outcome=_OUTCOMES[outcome]
                )
                for version, outcome in applied.outcomes
            ],
            revision=applied.revision,
        )

    async def WatchComponents(
        self, request: service_pb2.WatchComponentsRequest, _context: Context
    ) -> AsyncIterator[service_pb2.WatchComponentsResponse]:
        """Stream changes."""
        namespace = read_namespace(request.namespace)
        async with aclosing(self._registry.watch(namespace, request.after_revision)) as batches:
            async for batch in batches:
                yield service_pb2.WatchComponentsResponse(
                    changes=[self._answers.change(change) for change in batch.changes],
                    through_revision=batch.through_revision,
                )

    async def ListProblems(
        self, request: service_pb2.ListProblemsRequest, _context: Context
    ) -> service_pb2.ListProblemsResponse:
        """Return a page of what is wrong with the project's files."""
        problems = self._registry.loading.problems(read_namespace(request.namespace))
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, str, int, str, str)
        places = [(each.path, each.line, each.field, each.message) for each in problems]
        start = bisect.bisect_right(places, tuple(place)) if place else 0
        response = service_pb2.ListProblemsResponse(
            problems=[problem_to_proto(each) for each in problems[start : start + limit]]
        )
        if start + limit < len(problems):
            response.next_page_token = encode_page_token(places[start + limit - 1])
        return response
