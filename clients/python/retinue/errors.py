"""What can go wrong, as classes: one for each ErrorReason, the same on the server and in the client.

A service raises one; the kit's interceptor sends it as a gRPC status with `google.rpc.ErrorInfo`; the client
turns that back into the same class with the same facts (`retinue.rpc_status`).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from grpc import StatusCode

from retinue.common.v1 import error_pb2 as pb

_PREFIX = "ERROR_REASON_"


class Violation(NamedTuple):
    """One field that breaks a rule."""

    field: str
    """Path of the field, `agents.assistant.llm`."""
    description: str
    """What is wrong and what to do about it, with file and line where there are any."""


class RetinueError(Exception):
    """The class above all of Retinue's errors.

    `message` says what happened and what to do about it; `facts` are the same facts for programs, as they
    travel in ErrorInfo's metadata; `violations` are the fields that are wrong, where it is about fields.
    """

    reason: ClassVar[pb.ErrorReason.ValueType] = pb.ERROR_REASON_INTERNAL
    code: ClassVar[StatusCode] = StatusCode.INTERNAL

    def __init__(self, message: str, *, violations: Sequence[Violation] = (), **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.facts = {name: str(value) for name, value in facts.items() if value is not None}

    def __str__(self) -> str:
        if not self.violations:
            return self.message
        return "\n".join([self.message, *(f"  {field}: {text}" for field, text in self.violations)])


class InternalError(RetinueError):
    """A bug in Retinue; the service's log has the details."""


class InvalidArgumentError(RetinueError):
    reason = pb.ERROR_REASON_INVALID_ARGUMENT
    code = StatusCode.INVALID_ARGUMENT


class RequestTooLargeError(RetinueError):
    reason = pb.ERROR_REASON_REQUEST_TOO_LARGE
    code = StatusCode.RESOURCE_EXHAUSTED


class UnauthenticatedError(RetinueError):
    reason = pb.ERROR_REASON_UNAUTHENTICATED
    code = StatusCode.UNAUTHENTICATED


class ServiceUnavailableError(RetinueError):
    reason = pb.ERROR_REASON_SERVICE_UNAVAILABLE
    code = StatusCode.UNAVAILABLE


class StoreUnavailableError(RetinueError):
    reason = pb.ERROR_REASON_STORE_UNAVAILABLE
    code = StatusCode.UNAVAILABLE


class RequestIdReusedError(RetinueError):
    reason = pb.ERROR_REASON_REQUEST_ID_REUSED
    code = StatusCode.ALREADY_EXISTS


class DeadlineExceededError(RetinueError):
    reason = pb.ERROR_REASON_DEADLINE_EXCEEDED
    code = StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(RetinueError):
    reason = pb.ERROR_REASON_CANCELLED
    code = StatusCode.CANCELLED


class UnimplementedError(RetinueError):
    reason = pb.ERROR_REASON_UNIMPLEMENTED
    code = StatusCode.UNIMPLEMENTED


class ComponentNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_COMPONENT_NOT_FOUND
    code = StatusCode.NOT_FOUND


class ComponentInvalidError(RetinueError):
    reason = pb.ERROR_REASON_COMPONENT_INVALID
    code = StatusCode.INVALID_ARGUMENT


class ReferenceNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_REFERENCE_NOT_FOUND
    code = StatusCode.FAILED_PRECONDITION


class SecretNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_SECRET_NOT_FOUND
    code = StatusCode.FAILED_PRECONDITION


class EtagMismatchError(RetinueError):
    reason = pb.ERROR_REASON_ETAG_MISMATCH
    code = StatusCode.ABORTED


class ComponentInUseError(RetinueError):
    reason = pb.ERROR_REASON_COMPONENT_IN_USE
    code = StatusCode.FAILED_PRECONDITION


class ComponentOwnedByFileError(RetinueError):
    reason = pb.ERROR_REASON_COMPONENT_OWNED_BY_FILE
    code = StatusCode.FAILED_PRECONDITION


class RevisionCompactedError(RetinueError):
    reason = pb.ERROR_REASON_REVISION_COMPACTED
    code = StatusCode.OUT_OF_RANGE


class ComponentNotAllowedError(RetinueError):
    reason = pb.ERROR_REASON_COMPONENT_NOT_ALLOWED
    code = StatusCode.PERMISSION_DENIED


class McpServerUnavailableError(RetinueError):
    reason = pb.ERROR_REASON_MCP_SERVER_UNAVAILABLE
    code = StatusCode.UNAVAILABLE


class McpToolNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_MCP_TOOL_NOT_FOUND
    code = StatusCode.NOT_FOUND


class McpTimeoutError(RetinueError):
    reason = pb.ERROR_REASON_MCP_TIMEOUT
    code = StatusCode.DEADLINE_EXCEEDED


class McpProtocolError(RetinueError):
    reason = pb.ERROR_REASON_MCP_PROTOCOL_ERROR
    code = StatusCode.INTERNAL


class McpRequestRefusedError(RetinueError):
    reason = pb.ERROR_REASON_MCP_REQUEST_REFUSED
    code = StatusCode.INVALID_ARGUMENT


class McpServerRequestNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_MCP_SERVER_REQUEST_NOT_FOUND
    code = StatusCode.NOT_FOUND


class McpServerBusyError(RetinueError):
    reason = pb.ERROR_REASON_MCP_SERVER_BUSY
    code = StatusCode.RESOURCE_EXHAUSTED


class McpToolNotAllowedError(RetinueError):
    reason = pb.ERROR_REASON_MCP_TOOL_NOT_ALLOWED
    code = StatusCode.PERMISSION_DENIED


class McpCapabilityMissingError(RetinueError):
    reason = pb.ERROR_REASON_MCP_CAPABILITY_MISSING
    code = StatusCode.FAILED_PRECONDITION


class McpResourceNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_MCP_RESOURCE_NOT_FOUND
    code = StatusCode.NOT_FOUND


class McpLoginRequiredError(RetinueError):
    reason = pb.ERROR_REASON_MCP_LOGIN_REQUIRED
    code = StatusCode.FAILED_PRECONDITION


class McpLoginNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_MCP_LOGIN_NOT_FOUND
    code = StatusCode.NOT_FOUND


class McpLoginFailedError(RetinueError):
    reason = pb.ERROR_REASON_MCP_LOGIN_FAILED
    code = StatusCode.ABORTED


class RunNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_RUN_NOT_FOUND
    code = StatusCode.NOT_FOUND


class SequenceOutOfRangeError(RetinueError):
    reason = pb.ERROR_REASON_SEQUENCE_OUT_OF_RANGE
    code = StatusCode.OUT_OF_RANGE


class SessionNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_SESSION_NOT_FOUND
    code = StatusCode.NOT_FOUND


class MaxIterationsReachedError(RetinueError):
    reason = pb.ERROR_REASON_MAX_ITERATIONS_REACHED
    code = StatusCode.ABORTED


class RunTimeoutError(RetinueError):
    reason = pb.ERROR_REASON_RUN_TIMEOUT
    code = StatusCode.DEADLINE_EXCEEDED


class ToolCallInterruptedError(RetinueError):
    reason = pb.ERROR_REASON_TOOL_CALL_INTERRUPTED
    code = StatusCode.ABORTED


class TooManyRunsError(RetinueError):
    reason = pb.ERROR_REASON_TOO_MANY_RUNS
    code = StatusCode.RESOURCE_EXHAUSTED


class ClaimLostError(RetinueError):
    reason = pb.ERROR_REASON_CLAIM_LOST
    code = StatusCode.ABORTED


class PayloadTooLargeError(RetinueError):
    reason = pb.ERROR_REASON_PAYLOAD_TOO_LARGE
    code = StatusCode.RESOURCE_EXHAUSTED


class BudgetExceededError(RetinueError):
    reason = pb.ERROR_REASON_BUDGET_EXCEEDED
    code = StatusCode.RESOURCE_EXHAUSTED


class RunStateInvalidError(RetinueError):
    reason = pb.ERROR_REASON_RUN_STATE_INVALID
    code = StatusCode.FAILED_PRECONDITION


class InputNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_INPUT_NOT_FOUND
    code = StatusCode.NOT_FOUND


class InputClosedError(RetinueError):
    reason = pb.ERROR_REASON_INPUT_CLOSED
    code = StatusCode.FAILED_PRECONDITION


class InputMismatchError(RetinueError):
    reason = pb.ERROR_REASON_INPUT_MISMATCH
    code = StatusCode.FAILED_PRECONDITION


class SessionBusyError(RetinueError):
    reason = pb.ERROR_REASON_SESSION_BUSY
    code = StatusCode.ABORTED


class SessionOfStepError(RetinueError):
    reason = pb.ERROR_REASON_SESSION_OF_STEP
    code = StatusCode.FAILED_PRECONDITION


class OutputInvalidError(RetinueError):
    reason = pb.ERROR_REASON_OUTPUT_INVALID
    code = StatusCode.ABORTED


class RunStalledError(RetinueError):
    reason = pb.ERROR_REASON_RUN_STALLED
    code = StatusCode.ABORTED


class RunExpiredError(RetinueError):
    reason = pb.ERROR_REASON_RUN_EXPIRED
    code = StatusCode.DEADLINE_EXCEEDED


class RunDepthExceededError(RetinueError):
    reason = pb.ERROR_REASON_RUN_DEPTH_EXCEEDED
    code = StatusCode.ABORTED


class BlobNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_BLOB_NOT_FOUND
    code = StatusCode.NOT_FOUND


class ExpressionFailedError(RetinueError):
    reason = pb.ERROR_REASON_EXPRESSION_FAILED
    code = StatusCode.ABORTED


class StepTimeoutError(RetinueError):
    reason = pb.ERROR_REASON_STEP_TIMEOUT
    code = StatusCode.ABORTED


class WorkflowFailedError(RetinueError):
    reason = pb.ERROR_REASON_WORKFLOW_FAILED
    code = StatusCode.ABORTED


class JoinNotMetError(RetinueError):
    reason = pb.ERROR_REASON_JOIN_NOT_MET
    code = StatusCode.ABORTED


class RouteUnknownError(RetinueError):
    reason = pb.ERROR_REASON_ROUTE_UNKNOWN
    code = StatusCode.ABORTED


class StateConflictError(RetinueError):
    reason = pb.ERROR_REASON_STATE_CONFLICT
    code = StatusCode.ABORTED


class MemoryNotFoundError(RetinueError):
    reason = pb.ERROR_REASON_MEMORY_NOT_FOUND
    code = StatusCode.NOT_FOUND


class NonDeterministicError(RetinueError):
    reason = pb.ERROR_REASON_NON_DETERMINISTIC
    code = StatusCode.ABORTED


class WorkflowCodeFailedError(RetinueError):
    reason = pb.ERROR_REASON_WORKFLOW_CODE_FAILED
    code = StatusCode.ABORTED


class WorkflowCodeNotLoadedError(RetinueError):
    reason = pb.ERROR_REASON_WORKFLOW_CODE_NOT_LOADED
    code = StatusCode.FAILED_PRECONDITION


class WorkerExitedError(RetinueError):
    reason = pb.ERROR_REASON_WORKER_EXITED
    code = StatusCode.ABORTED


class WorkerNotConnectedError(RetinueError):
    reason = pb.ERROR_REASON_WORKER_NOT_CONNECTED
    code = StatusCode.ABORTED


class WorkerProtocolBrokenError(RetinueError):
    reason = pb.ERROR_REASON_WORKER_PROTOCOL_BROKEN
    code = StatusCode.ABORTED


class WorkflowCallCancelledError(RetinueError):
    reason = pb.ERROR_REASON_WORKFLOW_CALL_CANCELLED
    code = StatusCode.ABORTED


class LlmError(RetinueError):
    """The class above the errors of LLM calls; `retryable` says whether another try may go better."""

    retryable: ClassVar[bool] = False


class LlmUnauthenticatedError(LlmError):
    reason = pb.ERROR_REASON_LLM_UNAUTHENTICATED
    code = StatusCode.FAILED_PRECONDITION


class LlmRateLimitedError(LlmError):
    reason = pb.ERROR_REASON_LLM_RATE_LIMITED
    code = StatusCode.RESOURCE_EXHAUSTED
    retryable = True


class LlmUnavailableError(LlmError):
    reason = pb.ERROR_REASON_LLM_UNAVAILABLE
    code = StatusCode.UNAVAILABLE
    retryable = True


class LlmTimeoutError(LlmError):
    reason = pb.ERROR_REASON_LLM_TIMEOUT
    code = StatusCode.DEADLINE_EXCEEDED
    retryable = True


class LlmInvalidResponseError(LlmError):
    reason = pb.ERROR_REASON_LLM_INVALID_RESPONSE
    code = StatusCode.INTERNAL
    retryable = True


class LlmInvalidRequestError(LlmError):
    reason = pb.ERROR_REASON_LLM_INVALID_REQUEST
    code = StatusCode.INVALID_ARGUMENT


class LlmContextExceededError(LlmError):
    reason = pb.ERROR_REASON_LLM_CONTEXT_EXCEEDED
    code = StatusCode.INVALID_ARGUMENT


def _leaves(cls: type[RetinueError]) -> list[type[RetinueError]]:
    below = cls.__subclasses__()
    return [leaf for sub in below for leaf in _leaves(sub)] if below else [cls]


_BY_REASON: dict[int, type[RetinueError]] = {cls.reason: cls for cls in _leaves(RetinueError)}


def reason_name(reason: int) -> str:
    """The reason as it goes on the wire in ErrorInfo, `RUN_NOT_FOUND`."""
    if reason not in pb.ErrorReason.values():
        return f"UNKNOWN_{reason}"
    return pb.ErrorReason.Name(pb.ErrorReason.ValueType(reason)).removeprefix(_PREFIX)


def error_from_facts(
    reason: int, message: str, facts: Mapping[str, str], violations: Sequence[Violation] = ()
) -> RetinueError:
    """The error of a reason, as it stands in a RunError or a Failure; InternalError for an unknown one."""
    error = _BY_REASON.get(reason, InternalError)(message, violations=violations)
    error.facts = dict(facts)
    return error
