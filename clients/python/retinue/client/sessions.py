"""Sessions as a caller sees them."""

from collections.abc import AsyncIterator, Mapping

from retinue.client.channel import ServiceChannel
from retinue.engine.v1 import service_pb2, service_pb2_grpc, session_pb2


class Sessions:
    """Calls of the engine's SessionService in one namespace."""

    def __init__(self, channel: ServiceChannel, namespace: str) -> None:
        self._channel = channel
        self._stub = service_pb2_grpc.SessionServiceStub(channel.channel)
        self._namespace = namespace

    async def get(self, session_id: str) -> session_pb2.Session:
        """Return a session."""
        request = service_pb2.GetSessionRequest(namespace=self._namespace, session_id=session_id)
        return (await self._channel.unary(self._stub.GetSession, request)).session

    async def list(
        self, *, labels: Mapping[str, str] | None = None, base_session_id: str = "", page_size: int = 100
    ) -> AsyncIterator[session_pb2.Session]:
        """Yield sessions, the newest first, fetching pages as they are needed.

        With `labels` only those that have each of them with its value; with `base_session_id` those of its
        steps, else those of no step.
        """
        token = ""
        while True:
            request = service_pb2.ListSessionsRequest(
                namespace=self._namespace,
                labels=labels,
                base_session_id=base_session_id,
                page_size=page_size,
                page_token=token,
            )
            response = await self._channel.unary(self._stub.ListSessions, request)
            for session in response.sessions:
                yield session
            token = response.next_page_token
            if not token:
                return

    async def messages(
        self, session_id: str, *, page_size: int = 100
    ) -> AsyncIterator[session_pb2.SessionMessage]:
        """Yield a session's messages in their order, fetching pages as they are needed."""
        token = ""
        while True:
            request = service_pb2.ListSessionMessagesRequest(
                namespace=self._namespace, session_id=session_id, page_size=page_size, page_token=token
            )
            response = await self._channel.unary(self._stub.ListSessionMessages, request)
            for message in response.messages:
                yield message
            token = response.next_page_token
            if not token:
                return

    async def update(self, session_id: str, labels: Mapping[str, str]) -> session_pb2.Session:
        """Give a session these labels in place of those it has, and return it."""
        request = service_pb2.UpdateSessionRequest(
            namespace=self._namespace, session_id=session_id, labels=labels
        )
        return (await self._channel.unary(self._stub.UpdateSession, request)).session

    async def delete(self, session_id: str) -> int:
        """Delete a session with all its runs; return how many runs there were, children included.

        Raises SessionBusyError while a run of it has not ended, SessionOfStepError for a step's session.
        """
        request = service_pb2.DeleteSessionRequest(namespace=self._namespace, session_id=session_id)
        return (await self._channel.unary(self._stub.DeleteSession, request)).deleted_runs

    async def export(self, session_id: str) -> AsyncIterator[service_pb2.ExportSessionResponse]:
        """Yield a session, its messages in their order and its runs; then the same of its steps' sessions."""
        request = service_pb2.ExportSessionRequest(namespace=self._namespace, session_id=session_id)
        async for piece in self._channel.stream(self._stub.ExportSession, request):
            yield piece
