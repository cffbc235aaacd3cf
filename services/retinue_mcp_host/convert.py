"""Between the host's own types and the messages on the wire."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from retinue.errors import ComponentInvalidError, InvalidArgumentError, RetinueError, Violation
from retinue.mcphost.v1 import resource_pb2, server_request_pb2, service_pb2, tool_pb2
from retinue.registry.v1 import component_pb2, mcp_server_pb2
from retinue_mcp_host.calls.access import ToolAccess, ToolSelector
from retinue_mcp_host.calls.names import display_name
from retinue_mcp_host.model import (
    Answer,
    AnswerFailure,
    Batch,
    Blob,
    CallerScope,
    Content,
    Elicitation,
    ElicitationAnswer,
    Grant,
    HttpTransport,
    OAuth,
    Progress,
    SamplingAnswer,
    ServerRequest,
    ServerRequestClosed,
    ServerSpec,
    SseTransport,
    StdioTransport,
    TlsFiles,
    Tool,
    ToolCall,
    ToolResult,
)

MCP_SERVER = component_pb2.COMPONENT_KIND_MCP_SERVER
DEFAULT_NAMESPACE = "default"

CONNECT_TIMEOUT_S = 30.0
CALL_TIMEOUT_S = 60.0
IDLE_TIMEOUT_S = 300.0
MAX_CONCURRENT_CALLS = 64
MAX_QUEUED_CALLS = 1000
OAUTH_ALGORITHM = "RS256"
"""Where a server's config says nothing; as its proto says."""

MAX_RESPONSE_BYTES = 1024 * 1024
"""After so many bytes of results a batch goes on in the next message."""


_SCOPES: Mapping[int, Literal["shared", "session", "run"]] = {
    mcp_server_pb2.SERVER_SCOPE_SESSION: "session",
    mcp_server_pb2.SERVER_SCOPE_RUN: "run",
}

_GRANTS: Mapping[int, Grant] = {
    mcp_server_pb2.GRANT_TYPE_AUTHORIZATION_CODE: "authorization_code",
    mcp_server_pb2.GRANT_TYPE_JWT_BEARER: "jwt_bearer",
}


def spec_from_component(component: component_pb2.Component) -> ServerSpec:
    """The spec of a server. Raises ComponentInvalidError."""
    spec = component.mcp_server
    transport: StdioTransport | HttpTransport | SseTransport
    if spec.HasField("stdio"):
        stdio = spec.stdio
        transport = StdioTransport(stdio.command, tuple(stdio.args), dict(stdio.env), stdio.cwd)
    elif spec.HasField("streamable_http"):
        http = spec.streamable_http
        transport = HttpTransport(http.url, dict(http.headers), _tls(http.tls), _oauth(http))
    elif spec.HasField("sse"):
        sse = spec.sse
        transport = SseTransport(sse.url, dict(sse.headers), _tls(sse.tls), _oauth(sse))
    else:
        raise ComponentInvalidError(
            f"MCP server {component.name} has no transport: set stdio, streamable_http or sse",
            kind="mcp_server",
            name=component.name,
        )
    return ServerSpec(
        namespace=component.namespace or DEFAULT_NAMESPACE,
        name=component.name,
        version=component.version,
        transport=transport,
        connect_timeout_s=_seconds(spec.connect_timeout, CONNECT_TIMEOUT_S),
        call_timeout_s=_seconds(spec.call_timeout, CALL_TIMEOUT_S),
        idle_timeout_s=_seconds(spec.idle_timeout, IDLE_TIMEOUT_S),
        revision=spec.revision,
        allow_sampling=spec.allow_sampling,
        roots=tuple(_file_uri(root) for root in spec.roots),
        scope=_SCOPES.get(spec.scope, "shared"),
        max_concurrent_calls=spec.max_concurrent_calls or MAX_CONCURRENT_CALLS,
        max_queued_calls=spec.max_queued_calls if spec.HasField("max_queued_calls") else MAX_QUEUED_CALLS,
    )


def _tls(tls: mcp_server_pb2.TlsSettings) -> TlsFiles:
    return TlsFiles(tls.ca_file, tls.cert_file, tls.key_file)


def _oauth(http: mcp_server_pb2.StreamableHttpTransport | mcp_server_pb2.SseTransport) -> OAuth | None:
    if not http.HasField("oauth"):
        return None
    oauth = http.oauth
    return OAuth(
        issuer=oauth.issuer,
        client_id=oauth.client_id,
        client_secret=oauth.client_secret,
        private_key=oauth.private_key,
        algorithm=oauth.private_key_algorithm or OAUTH_ALGORITHM,
        scopes=tuple(oauth.scopes),
        grant=_GRANTS.get(oauth.grant, "client_credentials"),
        client_metadata_url=oauth.client_metadata_url,
        redirect_uri=oauth.redirect_uri,
        assertion=oauth.assertion,
        identity_provider=oauth.identity_provider,
        identity_client_id=oauth.identity_client_id,
        identity_client_secret=oauth.identity_client_secret,
        require_dpop=oauth.require_dpop,
    )


def _file_uri(root: str) -> str:
    return root if "://" in root else Path(root).as_uri()


def _seconds(duration: Duration, default: float) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    return seconds if seconds > 0 else default


def call_from_proto(call: tool_pb2.ToolCall, caller: str = "") -> ToolCall:
    """A call; `caller` is where it came from. Raises InvalidArgumentError."""
    server = call.server
    if not server.name or not call.tool:
        raise InvalidArgumentError("a tool call needs the names of a server and of a tool")
    return ToolCall(
        namespace=call.namespace or DEFAULT_NAMESPACE,
        server=server.name,
        version=server.version,
        tool=call.tool,
        arguments_json=call.arguments_json,
        idempotency_key=call.idempotency_key,
        run_id=call.run_id,
        traceparent=call.traceparent,
        accepts_elicitation=call.accepts_elicitation,
        accepts_sampling=call.accepts_sampling,
        scope=CallerScope(call.session_id, call.root_run_id or call.run_id),
        access=access_from_proto(call.access),
        caller=caller,
    )


def access_from_proto(access: tool_pb2.ToolAccess) -> ToolAccess:
    """The tools that a caller has; all where the message is not set."""
    return ToolAccess(_selectors(access.allowed), _selectors(access.excluded))


def _selectors(selectors: Iterable[tool_pb2.ToolSelector]) -> tuple[ToolSelector, ...]:
    return tuple(ToolSelector(each.server, each.tool) for each in selectors)


def scope_from_proto(scope: resource_pb2.CallerScope) -> CallerScope:
    """Whose connection is meant, where a server's is not shared."""
    return CallerScope(scope.session_id, scope.root_run_id)


def tool_to_proto(server: str, tool: Tool) -> tool_pb2.Tool:
    """A tool of a server, with its name for models."""
    return tool_pb2.Tool(
        server=server,
        name=tool.name,
        display_name=display_name(server, tool.name),
        title=tool.title,
        description=tool.description,
        input_schema_json=tool.input_schema_json,
        output_schema_json=tool.output_schema_json,
        annotations=tool_pb2.ToolAnnotations(
            read_only=tool.read_only,
            destructive=tool.destructive,
            idempotent=tool.idempotent,
            open_world=tool.open_world,
        ),
    )


def failure_to_proto(error: RetinueError) -> tool_pb2.Failure:
    """An error as a part of an answer."""
    return tool_pb2.Failure(reason=error.reason, message=error.message, metadata=error.facts)


def progress_to_proto(progress: Progress) -> tool_pb2.ToolProgress:
    """How far a call is."""
    return tool_pb2.ToolProgress(progress=progress.progress, total=progress.total, message=progress.message)


def request_to_proto(request: ServerRequest) -> server_request_pb2.ServerRequest:
    """What a server asks."""
    message = server_request_pb2.ServerRequest(request_id=request.request_id)
    message.expire_time.FromMicroseconds(request.expire_us)
    question = request.question
    if isinstance(question, Elicitation):
        message.elicitation.message = question.message
        message.elicitation.schema_json = question.schema_json
    else:
        message.sampling.params_json = question.params_json
    return message


def closed_to_proto(closed: ServerRequestClosed) -> server_request_pb2.ServerRequestClosed:
    """What a server asks no more."""
    return server_request_pb2.ServerRequestClosed(request_id=closed.request_id)


_ACTIONS: Mapping[int, Literal["accept", "decline", "cancel"]] = {
    server_request_pb2.ELICITATION_ACTION_ACCEPT: "accept",
    server_request_pb2.ELICITATION_ACTION_DECLINE: "decline",
    server_request_pb2.ELICITATION_ACTION_CANCEL: "cancel",
}


def answer_from_proto(request: service_pb2.AnswerServerRequestRequest) -> Answer:
    """The answer to what a server asked. Raises InvalidArgumentError."""
    which = request.WhichOneof("answer")
    if which == "elicitation":
        action = _ACTIONS.get(request.elicitation.action)
        if action is None:
            raise _invalid("elicitation.action", "must be accept, decline or cancel")
        return ElicitationAnswer(action, request.elicitation.content_json)
    if which == "sampling":
        return SamplingAnswer(request.sampling.result_json)
    if which == "failure":
        return AnswerFailure(request.failure.message)
    raise _invalid("answer", "must be set")


def _invalid(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} {what}", violations=[Violation(field, what)])


def result_to_proto(result: ToolResult) -> tool_pb2.ToolResult:
    """What a tool answered."""
    return tool_pb2.ToolResult(
        content=[content_to_proto(part) for part in result.content],
        structured_json=result.structured_json,
        is_error=result.is_error,
    )


def content_to_proto(part: Content) -> tool_pb2.ToolContent:
    """One piece of a result."""
    if isinstance(part, str):
        return tool_pb2.ToolContent(text=part)
    if isinstance(part, Blob):
        return tool_pb2.ToolContent(blob=tool_pb2.Blob(mime_type=part.mime_type, data=part.data))
    return tool_pb2.ToolContent(
        link=tool_pb2.ResourceLink(uri=part.uri, name=part.name, mime_type=part.mime_type)
    )


def responses_to_proto(batch: Batch) -> Iterator[service_pb2.StreamToolCallsResponse]:
    """A batch as messages of MAX_RESPONSE_BYTES or, where one update is larger, that update alone."""
    response = service_pb2.StreamToolCallsResponse()
    for namespace, server in sorted(batch.changed):
        response.tools_changed.add(namespace=namespace, server=server)
    size = 0
    for call_id, update in batch.updates:
        if isinstance(update, ToolResult | ServerRequest):
            if size and size + update.size_bytes > MAX_RESPONSE_BYTES:
                yield response
                response, size = service_pb2.StreamToolCallsResponse(), 0
            size += update.size_bytes
        if isinstance(update, ToolResult):
            response.updates.add(call_id=call_id, result=result_to_proto(update))
        elif isinstance(update, Progress):
            response.updates.add(call_id=call_id, progress=progress_to_proto(update))
        elif isinstance(update, ServerRequest):
            response.updates.add(call_id=call_id, request=request_to_proto(update))
        elif isinstance(update, ServerRequestClosed):
            response.updates.add(call_id=call_id, request_closed=closed_to_proto(update))
        else:
            response.updates.add(call_id=call_id, failure=failure_to_proto(update))
    yield response
