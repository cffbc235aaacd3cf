"""What servers ask in the middle of one tool call: a task for each question, ended with the call."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from retinue.errors import InternalError, RetinueError
from retinue.mcphost.v1 import server_request_pb2, service_pb2
from retinue_engine.tools import (
    Elicitation,
    ElicitationAnswer,
    OnRequest,
    Sampling,
    SamplingAnswer,
    ServerAnswer,
    ServerAsks,
)

log = structlog.get_logger()

MAX_TASKS = 32
"""Of one call; the host lets fewer questions wait."""

_ACTIONS = {
    "accept": server_request_pb2.ELICITATION_ACTION_ACCEPT,
    "decline": server_request_pb2.ELICITATION_ACTION_DECLINE,
    "cancel": server_request_pb2.ELICITATION_ACTION_CANCEL,
}

Fail = Callable[[RetinueError], None]
Send = Callable[[service_pb2.AnswerServerRequestRequest], Awaitable[None]]


class CallRequests:
    """The questions of one call. The call's clock stands still while one of them waits."""

    def __init__(self, server: str, on_request: OnRequest, clock: asyncio.Timeout, send: Send) -> None:
        self._server = server
        self._on_request = on_request
        self._clock = clock
        self._send = send
        self._context = contextvars.copy_context()
        self._left_s = 0.0
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def take(self, request: server_request_pb2.ServerRequest, fail: Fail) -> None:
        """Have a question answered; `fail` ends the call where that cannot be."""
        if self._clock.expired() or request.request_id in self._tasks:
            return
        if len(self._tasks) >= MAX_TASKS:
            log.warning("a question of an MCP server is left to its deadline", server=self._server)
            return
        loop = asyncio.get_running_loop()
        if not self._tasks:
            self._left_s = (self._clock.when() or 0.0) - loop.time()
            self._clock.reschedule(None)
        # The stream is read in a context of its own; what is done for a question is the call's.
        task = loop.create_task(self._answer(request, fail), context=self._context.copy())
        self._tasks[request.request_id] = task
        task.add_done_callback(partial(self._done, request.request_id))

    def close(self, request_id: str) -> None:
        """A question needs no answer any more."""
        task = self._tasks.get(request_id)
        if task is not None:
            task.cancel()

    async def aclose(self) -> None:
        """The call has ended: nothing is answered any more."""
        if self._tasks:
            tasks, self._tasks = tuple(self._tasks.values()), {}
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _done(self, request_id: str, task: "asyncio.Task[None]") -> None:
        del task
        if self._tasks.pop(request_id, None) is not None and not self._tasks:
            self._clock.reschedule(asyncio.get_running_loop().time() + self._left_s)

    async def _answer(self, request: server_request_pb2.ServerRequest, fail: Fail) -> None:
        try:
            answer = await self._on_request(self._asks(request))
            await self._send(_answer_to_proto(request.request_id, answer))
        except RetinueError as error:
            fail(error)
        except Exception:
            log.exception("a question of an MCP server failed by a bug", server=self._server)
            fail(InternalError("internal error; the engine's log has the details"))

    def _asks(self, request: server_request_pb2.ServerRequest) -> ServerAsks:
        expire_us = request.expire_time.ToMicroseconds()
        if request.WhichOneof("request") == "sampling":
            return Sampling(request.sampling.params_json, expire_us, self._server)
        asked = request.elicitation
        return Elicitation(asked.message, asked.schema_json, expire_us, self._server)


def _answer_to_proto(request_id: str, answer: ServerAnswer) -> service_pb2.AnswerServerRequestRequest:
    message = service_pb2.AnswerServerRequestRequest(request_id=request_id)
    if isinstance(answer, ElicitationAnswer):
        message.elicitation.action = _ACTIONS[answer.action]
        message.elicitation.content_json = answer.content_json
    elif isinstance(answer, SamplingAnswer):
        message.sampling.result_json = answer.result_json
    else:
        message.failure.message = answer.message
    return message
