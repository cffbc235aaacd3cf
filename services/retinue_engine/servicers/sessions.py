"""SessionService on the wire."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from retinue.engine.v1 import service_pb2, service_pb2_grpc
from retinue.errors import InvalidArgumentError, SessionNotFoundError, SessionOfStepError
from retinue_engine.convert import message_to_proto, run_to_proto, session_to_proto
from retinue_engine.runs.violations import labels
from retinue_engine.stores.rows import RunFilter, SessionRow
from retinue_engine.stores.store import Store
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit

_PAGE = 500
SERVICE = "retinue.engine.v1.SessionService"

Context = grpc.aio.ServicerContext[Any, Any]


class SessionServicer(service_pb2_grpc.SessionServiceServicer):
    """Takes calls, asks the store, gives answers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        service_pb2_grpc.add_SessionServiceServicer_to_server(self, server)

    async def GetSession(
        self, request: service_pb2.GetSessionRequest, _context: Context
    ) -> service_pb2.GetSessionResponse:
        row = await self._find(request.namespace, request.session_id)
        return service_pb2.GetSessionResponse(session=session_to_proto(row))

    async def ListSessions(
        self, request: service_pb2.ListSessionsRequest, _context: Context
    ) -> service_pb2.ListSessionsResponse:
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        before = (int(place[0]), str(place[1])) if place else None
        rows = await self._store.list_sessions(
            request.namespace or "default",
            before,
            limit + 1,
            dict(request.labels),
            request.base_session_id,
        )
        more = len(rows) > limit
        rows = rows[:limit]
        return service_pb2.ListSessionsResponse(
            sessions=[session_to_proto(row) for row in rows],
            next_page_token=encode_page_token([rows[-1].create_us, rows[-1].session_id]) if more else "",
        )

    async def ListSessionMessages(
        self, request: service_pb2.ListSessionMessagesRequest, _context: Context
    ) -> service_pb2.ListSessionMessagesResponse:
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int)
        session = await self._find(request.namespace, request.session_id)
        after = int(place[0]) if place else 0
        rows = await self._store.list_messages(session.namespace, session.session_id, after, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return service_pb2.ListSessionMessagesResponse(
            messages=[message_to_proto(row) for row in rows],
            next_page_token=encode_page_token([rows[-1].position]) if more else "",
        )

    async def UpdateSession(
        self, request: service_pb2.UpdateSessionRequest, _context: Context
    ) -> service_pb2.UpdateSessionResponse:
        violations = list(labels("labels", request.labels))
        if violations:
            raise InvalidArgumentError("the labels cannot be taken as they are", violations=violations)
        row = await self._store.label_session(
            request.namespace or "default", request.session_id, dict(request.labels)
        )
        if row is None:
            raise _not_found(request.session_id)
        return service_pb2.UpdateSessionResponse(session=session_to_proto(row))

    async def DeleteSession(
        self, request: service_pb2.DeleteSessionRequest, _context: Context
    ) -> service_pb2.DeleteSessionResponse:
        session = await self._find(request.namespace, request.session_id)
        if session.base_session_id:
            raise SessionOfStepError(
                f"session {session.session_id} is that of a step: delete {session.base_session_id}, and it "
                "goes with it",
                session_id=session.session_id,
                base_session_id=session.base_session_id,
            )
        deleted = await self._store.delete_session(session.namespace, session.session_id)
        if deleted is None:
            raise _not_found(request.session_id)
        return service_pb2.DeleteSessionResponse(deleted_runs=deleted)

    async def ExportSession(
        self, request: service_pb2.ExportSessionRequest, _context: Context
    ) -> AsyncIterator[service_pb2.ExportSessionResponse]:
        session = await self._find(request.namespace, request.session_id)
        async for piece in self._export(session):
            yield piece
        before: tuple[int, str] | None = None
        find = self._store.list_sessions
        while rows := await find(session.namespace, before, _PAGE, base=session.session_id):
            for row in rows:
                async for piece in self._export(row):
                    yield piece
            before = (rows[-1].create_us, rows[-1].session_id)

    async def _export(self, session: SessionRow) -> AsyncIterator[service_pb2.ExportSessionResponse]:
        yield service_pb2.ExportSessionResponse(session=session_to_proto(session))
        after = 0
        while rows := await self._store.list_messages(session.namespace, session.session_id, after, _PAGE):
            for message in rows:
                yield service_pb2.ExportSessionResponse(message=message_to_proto(message))
            after = rows[-1].position
        for run_id in await self._runs_of(session):
            run = await self._store.get_run(session.namespace, run_id)
            if run is not None:
                yield service_pb2.ExportSessionResponse(run=run_to_proto(run))

    async def _runs_of(self, session: SessionRow) -> list[str]:
        """The ids of a session's runs without their children, the oldest first: all of them would be much."""
        which = RunFilter(session.namespace, session.session_id)
        found: list[str] = []
        before: tuple[int, str] | None = None
        while rows := await self._store.list_runs(which, before, _PAGE):
            found += [row.run_id for row in rows]
            before = (rows[-1].create_us, rows[-1].run_id)
        return found[::-1]

    async def _find(self, namespace: str, session_id: str) -> SessionRow:
        row = await self._store.get_session(namespace or "default", session_id)
        if row is None:
            raise _not_found(session_id)
        return row


def _not_found(session_id: str) -> SessionNotFoundError:
    return SessionNotFoundError(
        f"there is no session {session_id!r}: `retinue sessions` lists them", session_id=session_id
    )
