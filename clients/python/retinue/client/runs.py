"""Runs as a caller sees them: start one, follow its events through broken connections, look, steer."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta

from retinue.client.backoff import backoff_s
from retinue.client.channel import ServiceChannel
from retinue.engine.v1 import event_pb2, report_pb2, run_pb2, service_pb2, service_pb2_grpc
from retinue.errors import (
    CallCancelledError,
    RetinueError,
    SequenceOutOfRangeError,
    ServiceUnavailableError,
    StoreUnavailableError,
)
from retinue.registry.v1 import component_pb2

GIVE_UP_AFTER = 20
"""Tries in a row that reach no engine before a watcher gives up; with the backoff about 80 s."""


BROKEN = (ServiceUnavailableError, StoreUnavailableError, CallCancelledError)
"""A stream that broke off and may go on later. CANCELLED: a server or proxy ended it inside a message."""

_BEYOND = 2**62
"""A number that no event ever has."""


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
        files: Sequence[service_pb2.InlineFile],
        session_busy: service_pb2.SessionBusyPolicy.ValueType,
        priority: int,
        queue_timeout: timedelta | None,
    ) -> service_pb2.RunRequest:
        request = service_pb2.RunRequest(
            namespace=self._namespace,
            # An id of our own makes it safe to send the request again after a broken connection.
            request_id=request_id or uuid.uuid4().hex,
            target=component_pb2.ComponentRef(kind=kind, name=target),
            message=message,
            session_id=session_id,
            options=options,
            labels=labels,
            files=files,
            session_busy=session_busy,
            priority=priority,
        )
        if queue_timeout is not None:
            request.queue_timeout.FromTimedelta(queue_timeout)
        return request

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
        files: Sequence[service_pb2.InlineFile] = (),
        session_busy: service_pb2.SessionBusyPolicy.ValueType = service_pb2.SESSION_BUSY_POLICY_UNSPECIFIED,
        priority: int = 0,
        queue_timeout: timedelta | None = None,
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
            files=files,
            session_busy=session_busy,
            priority=priority,
            queue_timeout=queue_timeout,
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
        files: Sequence[service_pb2.InlineFile] = (),
        session_busy: service_pb2.SessionBusyPolicy.ValueType = service_pb2.SESSION_BUSY_POLICY_UNSPECIFIED,
        priority: int = 0,
        queue_timeout: timedelta | None = None,
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
                files=files,
                session_busy=session_busy,
                priority=priority,
                queue_timeout=queue_timeout,
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

    async def watch(
        self, run_id: str, *, after_sequence: int = 0, event_types: Sequence[str] = (), path: str = ""
    ) -> AsyncIterator[event_pb2.RunEvent]:
        """Yield a run's events after a given one, each once and in order, to the last.

        `event_types` (names in RunEvent, `text_delta`) and `path` leave all others out. A run that waits for
        somebody or is paused yields nothing until it goes on. A connection that breaks is made again, with
        backoff, and the story goes on where it stopped.
        """
        responses = self._responses(run_id, after_sequence, event_types, path)
        async with aclosing(responses):
            async for response in responses:
                for event in response.events:
                    yield event

    async def events(
        self, run_id: str, *, after_sequence: int = 0, event_types: Sequence[str] = (), path: str = ""
    ) -> AsyncIterator[event_pb2.RunEvent]:
        """Yield the events that are there now, like `watch`, and end: also of a run that goes on."""
        last = await self._last_sequence(run_id)
        if after_sequence == last:
            return
        responses = self._responses(run_id, after_sequence, event_types, path)
        async with aclosing(responses):
            async for response in responses:
                for event in response.events:
                    if last is None or event.sequence <= last:
                        yield event
                if last is not None and response.through_sequence >= last:
                    return

    async def _last_sequence(self, run_id: str) -> int | None:
        """The number of the last event of the run's tree so far; None where the engine does not say."""
        request = service_pb2.WatchRunRequest(
            namespace=self._namespace, run_id=run_id, after_sequence=_BEYOND
        )
        try:
            async for _ in self._channel.stream(self._stub.WatchRun, request):
                return None
        except SequenceOutOfRangeError as error:
            return int(error.facts["last_sequence"])
        return None

    async def _responses(
        self, run_id: str, after_sequence: int, event_types: Sequence[str], path: str
    ) -> AsyncGenerator[service_pb2.WatchRunResponse, None]:
        """The answers of a watch over connections that break, heartbeats too."""
        waits, tries = backoff_s(), 0
        while True:
            request = service_pb2.WatchRunRequest(
                namespace=self._namespace,
                run_id=run_id,
                after_sequence=after_sequence,
                event_types=event_types,
                path=path,
            )
            try:
                async for response in self._channel.stream(self._stub.WatchRun, request):
                    waits, tries = backoff_s(), 0
                    last = response.events[-1].sequence if response.events else 0
                    after_sequence = max(after_sequence, last, response.through_sequence)
                    yield response
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
        root_run_id: str = "",
        page_size: int = 100,
    ) -> AsyncIterator[run_pb2.Run]:
        """Yield runs, the newest first, fetching pages as they are needed.

        With `root_run_id` those inside that run, else those that have no parent.
        """
        token = ""
        while True:
            request = service_pb2.ListRunsRequest(
                namespace=self._namespace,
                session_id=session_id,
                states=states,
                target_name=target_name,
                root_run_id=root_run_id,
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

    async def pause(self, run_id: str, *, reason: str = "") -> run_pb2.Run:
        """Ask a run to stop at the next safe point; what is under way there ends first."""
        request = service_pb2.PauseRunRequest(namespace=self._namespace, run_id=run_id, reason=reason)
        return (await self._channel.unary(self._stub.PauseRun, request)).run

    async def resume(self, run_id: str) -> run_pb2.Run:
        """Let a paused run go on."""
        request = service_pb2.ResumeRunRequest(namespace=self._namespace, run_id=run_id)
        return (await self._channel.unary(self._stub.ResumeRun, request)).run

    async def retry(
        self, run_id: str, *, request_id: str | None = None, options: run_pb2.RunOptions | None = None
    ) -> run_pb2.Run:
        """Start a new run that goes on from one that failed or was cancelled, and return the new one.

        Each of `options` counts over those of that run. The same `request_id` finds the same run again.
        """
        request = service_pb2.RetryRunRequest(
            namespace=self._namespace,
            run_id=run_id,
            request_id=request_id or uuid.uuid4().hex,
            options=options,
        )
        return (await self._channel.unary(self._stub.RetryRun, request)).run

    async def report(self, run_id: str) -> report_pb2.RunReport:
        """Return what a run used, broken down, and what went wrong in it; so far, where it has not ended."""
        request = service_pb2.GetRunReportRequest(namespace=self._namespace, run_id=run_id)
        return (await self._channel.unary(self._stub.GetRunReport, request)).report

    async def blob(self, run_id: str, blob_id: str) -> service_pb2.GetBlobResponse:
        """Return an attachment that the run's events or messages name, with its bytes."""
        request = service_pb2.GetBlobRequest(namespace=self._namespace, run_id=run_id, blob_id=blob_id)
        return await self._channel.unary(self._stub.GetBlob, request)


def _gave_up(last: RetinueError) -> ServiceUnavailableError:
    # Its own words: it may be the engine that is gone, or a service that the engine needs.
    error = ServiceUnavailableError(f"gave up after {GIVE_UP_AFTER} tries: {last.message}")
    error.facts = last.facts
    return error
