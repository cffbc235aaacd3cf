"""Errors as gRPC statuses with `google.rpc` details, as the kit's interceptor sends them, and back."""

from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import StatusCode

from retinue.common.v1 import error_pb2 as pb
from retinue.errors import (
    CallCancelledError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    RequestTooLargeError,
    RetinueError,
    ServiceUnavailableError,
    UnauthenticatedError,
    UnimplementedError,
    Violation,
    error_from_facts,
    reason_name,
)

DOMAIN = "retinue"
"""The `domain` of every ErrorInfo that Retinue sends."""

MAX_STATUS_MESSAGE_BYTES = 768
MAX_STATUS_BYTES = 3584
"""Clients take 8 KiB of trailers: the message in them is percent-encoded, the details are base64."""

MAX_FIELD_BYTES = 256
MAX_DESCRIPTION_BYTES = 512

_PREFIX = "ERROR_REASON_"
_DETAILS_KEY = "grpc-status-details-bin"

# For statuses that a proxy or gRPC itself made: they carry no ErrorInfo.
_BY_CODE: dict[StatusCode, type[RetinueError]] = {
    StatusCode.UNAVAILABLE: ServiceUnavailableError,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    StatusCode.RESOURCE_EXHAUSTED: RequestTooLargeError,
    StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    StatusCode.UNIMPLEMENTED: UnimplementedError,
    StatusCode.CANCELLED: CallCancelledError,
    StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
}


def status_from_error(error: RetinueError) -> status_pb2.Status:
    """The google.rpc.Status that carries an error, with ErrorInfo and, for fields, BadRequest.

    Where the facts have `retry_after_s`, RetryInfo says the same. All of it fits into the trailers of a
    call: what is longer is cut, and says so.
    """
    message = _cut(error.message, MAX_STATUS_MESSAGE_BYTES)
    room = MAX_STATUS_BYTES - len(message.encode())
    facts = {}
    for name, value in error.facts.items():
        facts[name] = _cut(value, max(room - len(name), 0))
        room -= len(name) + len(facts[name].encode()) + 16
    info = error_details_pb2.ErrorInfo(reason=reason_name(error.reason), domain=DOMAIN, metadata=facts)
    packed = [_packed(info)]
    if "retry_after_s" in error.facts:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(float(error.facts["retry_after_s"]) * 1000))
        packed.append(_packed(retry))
        room -= packed[-1].ByteSize()
    if error.violations:
        packed.append(_packed(_bad_request(error.violations, room)))
    code = getattr(code_pb2, error.code.name)
    return status_pb2.Status(code=code, message=message, details=packed)


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed


def _bad_request(violations: Sequence[Violation], room: int) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for number, (field, description) in enumerate(violations):
        added = bad_request.field_violations.add(
            field=_cut(field, MAX_FIELD_BYTES), description=_cut(description, MAX_DESCRIPTION_BYTES)
        )
        room -= added.ByteSize() + 4
        if number and room < 0:
            added.field, added.description = "", f"and {len(violations) - number} more"
            break
    return bad_request


def _cut(text: str, most_bytes: int) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= most_bytes else data[:most_bytes].decode(errors="ignore") + "…"


def error_from_rpc(failure: grpc.aio.AioRpcError) -> RetinueError:
    """The error that a failed call carries; by its status code where there is no ErrorInfo."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    message = failure.details() or failure.code().name
    for key, value in failure.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                detail.Unpack(info)
                detail.Unpack(bad_request)
    if info.domain == DOMAIN and f"{_PREFIX}{info.reason}" in pb.ErrorReason.keys():  # noqa: SIM118 - no mapping, though it has keys
        reason = pb.ErrorReason.Value(f"{_PREFIX}{info.reason}")
        violations = [Violation(each.field, each.description) for each in bad_request.field_violations]
        return error_from_facts(reason, message, info.metadata, violations)
    return _BY_CODE.get(failure.code(), InternalError)(message)
