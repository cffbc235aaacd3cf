"""What an MCP server answers, as JSON, turned into the host's tools and results."""

import binascii
from typing import Any

import orjson

from retinue.errors import McpProtocolError
from retinue_mcp_host.model import Blob, Content, ResourceLink, Tool, ToolResult

_EMPTY_SCHEMA = "{}"


def tool_from_json(item: Any) -> Tool | None:
    """A tool of a list; None for what has no name.

    A schema that is none stands as `{}`: one bad tool does not cost the list.
    """
    if not isinstance(item, dict) or not isinstance(name := item.get("name"), str) or not name:
        return None
    hints = item.get("annotations")
    hints = hints if isinstance(hints, dict) else {}
    return Tool(
        name=name,
        title=_text(item.get("title")) or _text(hints.get("title")),
        description=_text(item.get("description")),
        input_schema_json=_schema(item.get("inputSchema")) or _EMPTY_SCHEMA,
        output_schema_json=_schema(item.get("outputSchema")),
        read_only=_flag(hints.get("readOnlyHint")),
        destructive=_flag(hints.get("destructiveHint")),
        idempotent=_flag(hints.get("idempotentHint")),
        open_world=_flag(hints.get("openWorldHint")),
    )


def result_from_json(raw: dict[str, Any], server: str, max_bytes: int) -> ToolResult:
    """The result of a tools/call. What is beyond `max_bytes` is cut, and a last text says so.

    Raises McpProtocolError.
    """
    pieces = raw.get("content")
    if pieces is None:
        pieces = []
    if not isinstance(pieces, list):
        raise McpProtocolError(f"MCP server {server} sent a result whose content is no list", server=server)
    structured = raw.get("structuredContent")
    structured_json = "" if structured is None else _dumps(structured)
    content: list[Content] = []
    left = max_bytes
    size = 0
    for piece in pieces:
        part = content_from_json(piece, server)
        need = size_of(part)
        size += need
        if need <= left:
            content.append(part)
            left -= need
        elif isinstance(part, str) and left > 0:
            content.append(part.encode("utf-8", "replace")[:left].decode("utf-8", "ignore"))
            left = 0
        else:
            left = 0
    need = size_of(structured_json)
    size += need
    if need > left:
        structured_json = ""
    if size > max_bytes:
        content.append(f"[cut by Retinue: the result has {size} bytes, at most {max_bytes} are passed on]")
    return ToolResult(tuple(content), structured_json, raw.get("isError") is True, min(size, max_bytes))


def content_from_json(piece: Any, server: str) -> Content:
    kind = piece.get("type") if isinstance(piece, dict) else None
    if kind == "text":
        return _text(piece.get("text"))
    if kind in ("image", "audio"):
        return Blob(_text(piece.get("mimeType")), _bytes(piece.get("data"), server))
    if kind == "resource_link":
        return ResourceLink(_text(piece.get("uri")), _text(piece.get("name")), _text(piece.get("mimeType")))
    if kind == "resource" and isinstance(resource := piece.get("resource"), dict):
        if isinstance(text := resource.get("text"), str):
            return Blob(_text(resource.get("mimeType")) or "text/plain", text.encode("utf-8", "replace"))
        return Blob(
            _text(resource.get("mimeType")) or "application/octet-stream",
            _bytes(resource.get("blob"), server),
        )
    # A kind of a later revision: shown as it came rather than lost.
    return _dumps(piece)


def size_of(part: Content) -> int:
    if isinstance(part, str):
        return len(part) if part.isascii() else len(part.encode("utf-8", "replace"))
    if isinstance(part, Blob):
        return len(part.data)
    return len(part.uri) + len(part.name)


def _bytes(data: Any, server: str) -> bytes:
    try:
        return binascii.a2b_base64(data)
    except (binascii.Error, TypeError, ValueError):
        raise McpProtocolError(f"MCP server {server} sent data that is not base64", server=server) from None


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def _schema(value: Any) -> str:
    return _dumps(value) if isinstance(value, dict) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
