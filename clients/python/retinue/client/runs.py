"""Runs as a caller sees them: start one, follow its events through broken connections, look, cancel."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence

from retinue.client.backoff import backoff_s
from retinue.client.channel import ServiceChannel
from retinue.engine.v1 import event_pb2, run_pb2, service_pb2, service_pb2_grpc
from retinue.errors import CallCancelledError, RetinueError, ServiceUnavailableError, StoreUnavailableError
from retinue.registry.v1 import component_pb2

GIVE_UP_AFTER = 20
"""Tries in a row that reach no engine before a watcher gives up; with the backoff about 80 s."""


BROKEN = (ServiceUnavailableError, StoreUnavailableError, CallCancelledError)
"""A stream that broke off and may go on later. CANCELLED: a server or proxy ended it inside a message."""


class Runs:
    """Calls of the engine's RunService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.RunServiceStub(channel.channel)
        self._namespace = namespace

    def _request(
        self,
        target: str,
        message: str,
        *,
        kind: component_pb2.ComponentKind.ValueType,
        session_id: str,
        request_id: str | None,
        options: run_pb2.RunOptions | None,
        labels: Mapping[str, str] | None,
    ) -> service_pb2.RunRequest:
        return service_pb2.RunRequest(
            namespace=self._namespace,
            # An id of our own makes it safe to send the request again after a broken connection.
            request_id=request_id or uuid.uuid4().hex,
            target=component_pb2.ComponentRef(kind=kind, name=target),
            message=message,
            session_id=session_id,
            options=options,
            labels=labels,
        )

    async def start(
        self,
        target: str,
        message: str,
        *,
        kind: component_pb2.ComponentKind.ValueType = component_pb2.COMPONENT_KIND_UNSPECIFIED,
        session_id: str = "",
        request_id: str | None = None,
        options: run_pb2.RunOptions | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> run_pb2.Run:
        """Start a run and return it; it goes on by itself. The same `request_id` finds the same run again."""
        request = self._request(
            target,
            message,
            kind=kind,
            session_id=session_id,
            request_id=request_id,
            options=options,
            labels=labels,
        )
        response = await self._channel.unary(self._stub.StartRun, service_pb2.StartRunRequest(run=request))
        return response.run

    async def stream(
        self,
        target: str,
        message: str,
        *,
        kind: component_pb2.ComponentKind.ValueType = component_pb2.COMPONENT_KIND_UNSPECIFIED,
        session_id: str = "",
        request_id: str | None = None,
        options: run_pb2.RunOptions | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[event_pb2.RunEvent]:
        """Start a run and yield its events, each once and in order, to the last.

        A connection that breaks is made again and the story goes on where it stopped.
        """
        request = service_pb2.StreamRunRequest(
            run=self._request(
                target,
                message,
                kind=kind,
                session_id=session_id,
                request_id=request_id,
                options=options,
                labels=labels,
            )
        )
        waits = backoff_s()
        run_id, sequence = "", 0
        failure: RetinueError = ServiceUnavailableError("")
        for _ in range(GIVE_UP_AFTER):
            try:
                async for response in self._channel.stream(self._stub.StreamRun, request):
                    for event in response.events:
                        run_id = run_id or event.run_id
                        sequence = event.sequence
                        yield event
            except BROKEN as error:
                failure = error
                if run_id:
                    break
                await asyncio.sleep(next(waits))
            else:
                return
        else:
            raise _gave_up(failure) from None
        async for event in self.watch(run_id, after_sequence=sequence):
            yield event

    async def watch(self, run_id: str, *, after_sequence: int = 0) -> AsyncIterator[event_pb2.RunEvent]:
        """Yield a run's events after a given one, each once and in order, to the last.

        A connection that breaks is made again, with backoff, and the story goes on where it stopped.
        """
        waits, tries = backoff_s(), 0
        while True:
            request = service_pb2.WatchRunRequest(
                namespace=self._namespace, run_id=run_id, after_sequence=after_sequence
            )
            try:
                async for response in self._channel.stream(self._stub.WatchRun, request):
                    waits, tries = backoff_s(), 0
                    for event in response.events:
                        after_sequence = event.sequence
                        yield event
                    after_sequence = max(after_sequence, response.through_sequence)
            except BROKEN as error:
                tries += 1
                if tries >= GIVE_UP_AFTER:
                    raise _gave_up(error) from None
                await asyncio.sleep(next(waits))
            else:
                return

    async def get(self, run_id: str) -> run_pb2.Run:
        """Return a run and, when it has ended, its result."""
        request = service_pb2.GetRunRequest(namespace=self._namespace, run_id=run_id)
        return (await self._channel.unary(self._stub.GetRun, request)).run

    async def list(
        self,
        *,
        session_id: str = "",
        states: Sequence[run_pb2.RunState.ValueType] = (),
        target_name: str = "",
        page_size: int = 100,
    ) -> AsyncIterator[run_pb2.Run]:
        """Yield runs, the newest first, fetching pages as they are needed."""
        token = ""
        while True:
            request = service_pb2.ListRunsRequest(
                namespace=self._namespace,
                session_id=session_id,
                states=states,
                target_name=target_name,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListRuns, request)
            for run in response.runs:
                yield run
            token = response.next_page_token
            if not token:
                return

    async def cancel(self, run_id: str, *, reason: str = "") -> run_pb2.Run:
        """Ask a run to end; it does so soon after. One that has ended stays as it is."""
        request = service_pb2.CancelRunRequest(namespace=self._namespace, run_id=run_id, reason=reason)
        return (await self._channel.unary(self._stub.CancelRun, request)).run


def _gave_up(last: RetinueError) -> ServiceUnavailableError:
    # Its own words: it may be the engine that is gone, or a service that the engine needs.
    error = ServiceUnavailableError(f"gave up after {GIVE_UP_AFTER} tries: {last.message}")
    error.facts = last.facts
    return error
