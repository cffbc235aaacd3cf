"""What a server has beside tools: its types, and how they are read from what it sends.

What is out of shape or too large is None, so that one bad entry does not cost the list.
"""

import binascii
from dataclasses import dataclass
from typing import Any

from retinue_mcp_host.connections.results import content_from_json, size_of
from retinue_mcp_host.model import Content

MAX_ENTRY_BYTES = 64 * 1024
"""Of one entry of a list; a larger one is left out."""
MAX_ARGUMENTS = 100
"""Of one prompt."""
MAX_COMPLETIONS = 100
"""As MCP has it."""
MAX_COMPLETION_CHARS = 4096

_INT64_MAX = 2**63 - 1
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as its server lists it."""

    uri: str
    name: str
    title: str
    description: str
    mime_type: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class ResourceTemplate:
    """A family of resources as its server lists it."""

    uri_template: str
    name: str
    title: str
    description: str
    mime_type: str


@dataclass(frozen=True, slots=True)
class ResourceContents:
    """What a resource holds, or a part of it."""

    uri: str
    mime_type: str
    contents: str | bytes


@dataclass(frozen=True, slots=True)
class PromptArgument:
    """What a prompt takes."""

    name: str
    title: str
    description: str
    required: bool


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as its server lists it."""

    name: str
    title: str
    description: str
    arguments: tuple[PromptArgument, ...]


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """One message of a prompt."""

    is_user: bool
    content: Content


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    """A prompt with its arguments filled in."""

    description: str
    messages: tuple[PromptMessage, ...]


@dataclass(frozen=True, slots=True)
class Completions:
    """How an argument may go on."""

    values: tuple[str, ...]
    total: int | None
    has_more: bool


Entry = Resource | ResourceTemplate | Prompt
"""What lists are made of."""


def resource_from_json(item: Any) -> Resource | None:
    """A resource of a list."""
    if not isinstance(item, dict) or not (uri := _text(item.get("uri"))):
        return None
    size = item.get("size")
    return Resource(
        uri=uri,
        name=_text(item.get("name")),
        title=_text(item.get("title")),
        description=_text(item.get("description")),
        mime_type=_text(item.get("mimeType")),
        size_bytes=size if type(size) is int and 0 <= size <= _INT64_MAX else None,
    )


def template_from_json(item: Any) -> ResourceTemplate | None:
    """A resource template of a list."""
    if not isinstance(item, dict) or not (uri := _text(item.get("uriTemplate"))):
        return None
    return ResourceTemplate(
        uri_template=uri,
        name=_text(item.get("name")),
        title=_text(item.get("title")),
        description=_text(item.get("description")),
        mime_type=_text(item.get("mimeType")),
    )


def prompt_from_json(item: Any) -> Prompt | None:
    """A prompt of a list; arguments without a name are left out."""
    if not isinstance(item, dict) or not (name := _text(item.get("name"))):
        return None
    given = item.get("arguments")
    arguments = tuple(
        PromptArgument(
            name=argument["name"],
            title=_text(argument.get("title")),
            description=_text(argument.get("description")),
            required=argument.get("required") is True,
        )
        for argument in (given if isinstance(given, list) else [])[:MAX_ARGUMENTS]
        if isinstance(argument, dict) and _text(argument.get("name"))
    )
    return Prompt(name, _text(item.get("title")), _text(item.get("description")), arguments)


def entry_bytes(entry: Entry) -> int:
    """How much an entry is on the wire, about."""
    texts = [entry.name, entry.title, entry.description]
    if isinstance(entry, Prompt):
        for argument in entry.arguments:
            texts += (argument.name, argument.title, argument.description)
    elif isinstance(entry, Resource):
        texts += (entry.uri, entry.mime_type)
    else:
        texts += (entry.uri_template, entry.mime_type)
    return sum(size_of(text) for text in texts)


def contents_from_json(item: Any, uri: str) -> ResourceContents | None:
    """What a resource holds; `uri` is what was asked for."""
    if not isinstance(item, dict):
        return None
    contents: str | bytes
    if isinstance(text := item.get("text"), str):
        contents = text
    else:
        try:
            contents = binascii.a2b_base64(item["blob"])
        except (binascii.Error, KeyError, TypeError, ValueError):
            return None
    return ResourceContents(_text(item.get("uri")) or uri, _text(item.get("mimeType")), contents)


def message_from_json(item: Any, server: str) -> PromptMessage | None:
    """One message of a prompt. Raises McpProtocolError for bytes that are none."""
    if not isinstance(item, dict) or item.get("role") not in ("user", "assistant"):
        return None
    return PromptMessage(item["role"] == "user", content_from_json(item.get("content"), server))


def completions_from_json(raw: dict[str, Any]) -> Completions | None:
    """The answer of completion/complete."""
    found = raw.get("completion")
    if not isinstance(found, dict) or not isinstance(values := found.get("values"), list):
        return None
    texts = [each for each in values if isinstance(each, str) and len(each) <= MAX_COMPLETION_CHARS]
    total = found.get("total")
    return Completions(
        values=tuple(texts[:MAX_COMPLETIONS]),
        total=total if type(total) is int and 0 <= total <= _INT32_MAX else None,
        has_more=found.get("hasMore") is True or len(texts) > MAX_COMPLETIONS,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
