"""Between what servers have beside tools and the messages on the wire."""

from retinue.errors import InvalidArgumentError, Violation
from retinue.mcphost.v1 import resource_pb2, tool_pb2
from retinue_mcp_host.content.contents import Place
from retinue_mcp_host.content.items import (
    Completions,
    FilledPrompt,
    Prompt,
    Resource,
    ResourceContents,
    ResourceTemplate,
)
from retinue_mcp_host.convert import DEFAULT_NAMESPACE, content_to_proto
from retinue_mcp_host.model import CallerScope


def place_from_proto(namespace: str, server: tool_pb2.ServerRef, scope: resource_pb2.CallerScope) -> Place:
    """Whose connection to which server is meant. Raises InvalidArgumentError."""
    if not server.name:
        raise missing("server.name")
    return Place(
        namespace or DEFAULT_NAMESPACE,
        server.name,
        server.version,
        CallerScope(scope.session_id, scope.root_run_id),
    )


def missing(field: str) -> InvalidArgumentError:
    """The error of a field that has to be set."""
    return InvalidArgumentError(f"{field} is empty: set it", violations=[Violation(field, "must be set")])


def resource_to_proto(resource: Resource) -> resource_pb2.Resource:
    """A resource of a list."""
    return resource_pb2.Resource(
        uri=resource.uri,
        name=resource.name,
        title=resource.title,
        description=resource.description,
        mime_type=resource.mime_type,
        size_bytes=resource.size_bytes,
    )


def template_to_proto(template: ResourceTemplate) -> resource_pb2.ResourceTemplate:
    """A resource template of a list."""
    return resource_pb2.ResourceTemplate(
        uri_template=template.uri_template,
        name=template.name,
        title=template.title,
        description=template.description,
        mime_type=template.mime_type,
    )


def contents_to_proto(contents: ResourceContents) -> resource_pb2.ResourceContents:
    """What a resource holds."""
    message = resource_pb2.ResourceContents(uri=contents.uri, mime_type=contents.mime_type)
    if isinstance(contents.contents, str):
        message.text = contents.contents
    else:
        message.data = contents.contents
    return message


def prompt_to_proto(prompt: Prompt) -> resource_pb2.Prompt:
    """A prompt of a list."""
    return resource_pb2.Prompt(
        name=prompt.name,
        title=prompt.title,
        description=prompt.description,
        arguments=[
            resource_pb2.PromptArgument(
                name=each.name, title=each.title, description=each.description, required=each.required
            )
            for each in prompt.arguments
        ],
    )


def filled_prompt_to_proto(prompt: FilledPrompt) -> resource_pb2.GetPromptResponse:
    """A prompt with its arguments filled in."""
    return resource_pb2.GetPromptResponse(
        description=prompt.description,
        messages=[
            resource_pb2.PromptMessage(
                role=resource_pb2.PROMPT_ROLE_USER if each.is_user else resource_pb2.PROMPT_ROLE_ASSISTANT,
                content=content_to_proto(each.content),
            )
            for each in prompt.messages
        ],
    )


def completions_to_proto(found: Completions) -> resource_pb2.CompleteResponse:
    """How an argument may go on."""
    return resource_pb2.CompleteResponse(values=found.values, total=found.total, has_more=found.has_more)


def reference_from_proto(request: resource_pb2.CompleteRequest) -> dict[str, str]:
    """Whose argument it is, as MCP has it. Raises InvalidArgumentError."""
    which = request.WhichOneof("of")
    if which == "prompt" and request.prompt:
        return {"type": "ref/prompt", "name": request.prompt}
    if which == "uri_template" and request.uri_template:
        return {"type": "ref/resource", "uri": request.uri_template}
    raise missing("prompt or uri_template")
