"""InputService on the wire."""

from typing import Any

import grpc

from retinue.engine.v1 import input_pb2, service_pb2, service_pb2_grpc
from retinue.errors import (
    InputClosedError,
    InputMismatchError,
    InputNotFoundError,
    InvalidArgumentError,
    RunNotFoundError,
    Violation,
)
from retinue_engine.agent.conversation import parse_arguments
from retinue_engine.agent.json_schema import parse_json
from retinue_engine.agent.output import OutputSchema
from retinue_engine.convert import input_to_proto
from retinue_engine.runs.dispatcher import Dispatcher
from retinue_engine.stores.rows import InputRow
from retinue_engine.stores.store import Store
from retinue_kit.paging import decode_page_token, encode_page_token, page_limit

SERVICE = "retinue.engine.v1.InputService"
MAX_REASON = 1024
MAX_VALUE_BYTES = 256 * 1024

Context = grpc.aio.ServicerContext[Any, Any]


class InputServicer(service_pb2_grpc.InputServiceServicer):
    """Shows what runs ask, and takes the answers."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def add_to(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        service_pb2_grpc.add_InputServiceServicer_to_server(self, server)

    async def ListInputs(
        self, request: service_pb2.ListInputsRequest, _context: Context
    ) -> service_pb2.ListInputsResponse:
        namespace = request.namespace or "default"
        limit = page_limit(request.page_size)
        place = decode_page_token(request.page_token, int, str)
        before = (int(place[0]), str(place[1])) if place else None
        root_run_id = ""
        if request.run_id:
            row = await self._store.get_run(namespace, request.run_id)
            if row is None:
                raise RunNotFoundError(
                    f"there is no run {request.run_id!r}: `retinue runs` lists them", run_id=request.run_id
                )
            root_run_id = row.root_run_id
        rows = await self._store.list_inputs(
            namespace, root_run_id, before, limit + 1, closed=request.include_closed
        )
        more, rows = len(rows) > limit, rows[:limit]
        return service_pb2.ListInputsResponse(
            inputs=[input_to_proto(row) for row in rows],
            next_page_token=encode_page_token([rows[-1].create_us, rows[-1].input_id]) if more else "",
        )

    async def AnswerInput(
        self, request: service_pb2.AnswerInputRequest, _context: Context
    ) -> service_pb2.AnswerInputResponse:
        namespace = request.namespace or "default"
        row = await self._store.get_input(namespace, request.input_id)
        asked = input_to_proto(row) if row else None
        if row is None or asked is None or request.run_id not in (asked.run_id, asked.root_run_id):
            raise _not_found(request)
        _check_answer(asked, request)
        answer = request.answer.SerializeToString(deterministic=True)
        stored = await self._dispatcher.answer(namespace, request.input_id, answer)
        if stored is None:
            raise _not_found(request)
        if stored.answer != answer:
            raise _closed(stored)
        return service_pb2.AnswerInputResponse(input=input_to_proto(stored))


def _not_found(request: service_pb2.AnswerInputRequest) -> InputNotFoundError:
    return InputNotFoundError(
        f"run {request.run_id!r} asks for no input {request.input_id!r}: `retinue inputs` lists them",
        run_id=request.run_id,
        input_id=request.input_id,
    )


def _closed(row: InputRow) -> InputClosedError:
    state = input_pb2.InputState.Name(input_pb2.InputState.ValueType(row.state)).removeprefix("INPUT_STATE_")
    answered = row.answer is not None and not input_to_proto(row).answer.HasField("expired")
    why = "it has another answer already" if answered else "its time is over, or its run has ended"
    return InputClosedError(
        f"input {row.input_id} takes no answer: {why}", input_id=row.input_id, state=state
    )


def _check_answer(asked: input_pb2.InputRequest, request: service_pb2.AnswerInputRequest) -> None:
    """Raise InvalidArgumentError, InputMismatchError where the answer is none to this request."""
    which = request.answer.WhichOneof("answer")
    kind = asked.WhichOneof("kind")
    fits = {"approval": ("approve", "deny"), "question": ("value_json", "refuse")}[kind or "question"]
    if which not in fits:
        raise _invalid("answer", f"is {which or 'missing'}: this input takes {' or '.join(fits)}")
    if kind == "question":
        if which == "value_json":
            _check_value(asked.question, request.answer.value_json)
        return
    if request.arguments_sha256 != asked.approval.arguments_sha256:
        raise InputMismatchError(
            f"the answer to {asked.input_id} is meant for other arguments: read the request again, and send "
            "its arguments_sha256",
            input_id=asked.input_id,
        )
    if len(request.answer.deny.reason) > MAX_REASON:
        raise _invalid("answer.deny.reason", f"is longer than {MAX_REASON} characters")
    changed = request.answer.approve.arguments_json
    if changed:
        _check_size("answer.approve.arguments_json", changed)
        arguments = parse_arguments(changed)
        if isinstance(arguments, str):
            raise _invalid("answer.approve.arguments_json", "is no JSON object")


def _check_value(question: input_pb2.Question, value_json: str) -> None:
    _check_size("answer.value_json", value_json)
    try:
        parse_json(value_json)
    except ValueError as error:
        raise _invalid("answer.value_json", f"is no JSON: {error}") from None
    if question.schema_json:
        checked = OutputSchema(question.schema_json).check(value_json)
        if checked.complaint:
            raise _invalid("answer.value_json", checked.wrong)


def _check_size(field: str, text: str) -> None:
    size = len(text.encode())
    if size > MAX_VALUE_BYTES:
        raise _invalid(field, f"has {size} bytes and an answer takes {MAX_VALUE_BYTES}")


def _invalid(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError("the answer cannot be accepted as it is", violations=[Violation(field, what)])
