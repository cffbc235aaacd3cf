"""The RegistryService: requests in, the registry's answers out."""

import asyncio
import bisect
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from retinue.registry.v1 import service_pb2, service_pb2_grpc
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit
from retinue_registry.changes.first_answers import Answer
from retinue_registry.component import BATCH_BYTES
from retinue_registry.convert import Answers, problem_to_proto, shadowed_to_proto
from retinue_registry.convert_changes import applied_to_proto, changes_between, changes_of, lack_to_proto
from retinue_registry.kinds import ORDER
from retinue_registry.loading.loading import shadowed_place
from retinue_registry.registry import Registry
from retinue_registry.requests import (
    read_apply,
    read_asked,
    read_current_key,
    read_filter,
    read_key,
    read_llm,
    read_namespace,
    read_prune,
    read_version,
)

Context = grpc.aio.ServicerContext[Any, Any]


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
        namespace, which = read_namespace(request.namespace), read_filter(request)
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        after = (int(place[0]), str(place[1])) if place else None
        response = service_pb2.ListComponentsResponse(revision=self._registry.revision)
        size = 0
        for version in self._registry.page(namespace, which, after):
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
        """Store a set of components, and delete what is not in it where that is asked for."""
        asked, prune = read_asked(request), read_prune(request)
        # In a thread: the largest schemas and templates take half a second to check.
        proposal = await asyncio.to_thread(read_apply, request)
        answer = await self._registry.changing.apply(proposal, asked, prune=prune, dry_run=request.dry_run)
        return service_pb2.ApplyComponentsResponse(
            applied=await self._applied(answer, dry_run=request.dry_run),
            revision=answer.revision,
            broken=map(lack_to_proto, answer.lacks),
        )

    async def DeleteComponent(
        self, request: service_pb2.DeleteComponentRequest, _context: Context
    ) -> service_pb2.DeleteComponentResponse:
        """Delete a component."""
        key = read_current_key(request.namespace, request.component)
        answer = await self._registry.changing.delete(
            key, read_asked(request), etag=request.etag, force=request.force
        )
        replacements = [self._answers.component(version) for version in answer.replacements]
        return service_pb2.DeleteComponentResponse(
            component=self._answers.component(answer.steps[0].version),
            replacement=replacements[0] if replacements else None,
            broken=map(lack_to_proto, answer.lacks),
            revision=answer.revision,
        )

    async def ListComponentVersions(
        self, request: service_pb2.ListComponentVersionsRequest, _context: Context
    ) -> service_pb2.ListComponentVersionsResponse:
        """Return a page of a component's versions; it ends early where they are large."""
        key = read_current_key(request.namespace, request.component)
        place = decode_page_token(request.page_token, int)
        below = int(place[0]) if place else 0
        versions, more = await self._registry.history.page(key, below, page_limit(request.page_size))
        return service_pb2.ListComponentVersionsResponse(
            versions=[
                service_pb2.ComponentVersion(component=self._answers.component(each), deleted=each.deleted)
                for each in versions
            ],
            next_page_token=encode_page_token((versions[-1].version,)) if more else "",
        )

    async def DiffComponentVersions(
        self, request: service_pb2.DiffComponentVersionsRequest, _context: Context
    ) -> service_pb2.DiffComponentVersionsResponse:
        """Return how two versions differ."""
        key, version = read_version(request.namespace, request.component)
        before = await self._registry.history.what_was(key, version)
        after = await self._registry.history.what_was(key, request.to_version, field="to_version")
        return service_pb2.DiffComponentVersionsResponse(changes=changes_between(before, after))

    async def RollbackComponent(
        self, request: service_pb2.RollbackComponentRequest, _context: Context
    ) -> service_pb2.RollbackComponentResponse:
        """Store what an earlier version held as the newest one."""
        key, version = read_version(request.namespace, request.component)
        answer = await self._registry.changing.roll_back(
            key, version, read_asked(request), etag=request.etag, take_over=request.take_over
        )
        (applied,) = await self._applied(answer)
        return service_pb2.RollbackComponentResponse(applied=applied, revision=answer.revision)

    async def _applied(self, answer: Answer, *, dry_run: bool = False) -> list[service_pb2.AppliedComponent]:
        many = any(step.before for step in answer.steps)
        # In a thread, as there may be thousands; what is built from the kept answers is built here.
        changes = await asyncio.to_thread(changes_of, answer.steps) if many else [[] for _ in answer.steps]
        return [
            applied_to_proto(step, of_one, self._answers, dry_run=dry_run)
            for step, of_one in zip(answer.steps, changes, strict=True)
        ]

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
        """Return a page of what is wrong with the files."""
        problems = self._registry.loading.problems(read_namespace(request.namespace))
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, str, int, str, str, str, str)
        places = [
            (each.path, each.line, each.field, each.message, each.layer.value, each.distribution)
            for each in problems
        ]
        start = bisect.bisect_right(places, tuple(place)) if place else 0
        response = service_pb2.ListProblemsResponse(
            problems=[problem_to_proto(each) for each in problems[start : start + limit]]
        )
        if start + limit < len(problems):
            response.next_page_token = encode_page_token(places[start + limit - 1])
        return response

    async def ListShadowedComponents(
        self, request: service_pb2.ListShadowedComponentsRequest, _context: Context
    ) -> service_pb2.ListShadowedComponentsResponse:
        """Return a page of what files give that is not in effect; it ends early where they are large."""
        found = self._registry.loading.shadowed(read_namespace(request.namespace))
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str, int, str, str)
        start = bisect.bisect_right(found, tuple(place), key=shadowed_place) if place else 0
        response = service_pb2.ListShadowedComponentsResponse()
        size = 0
        for draft, shadowed_by in found[start : start + limit]:
            if size >= BATCH_BYTES:
                break
            response.components.append(shadowed_to_proto(draft, shadowed_by))
            size += response.components[-1].ByteSize()
        end = start + len(response.components)
        if end < len(found):
            response.next_page_token = encode_page_token(shadowed_place(found[end - 1]))
        return response
