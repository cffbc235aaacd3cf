"""Images and files in messages: by reference where they are kept, with their bytes when a model is asked."""

import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from retinue.engine.v1.attachment_pb2 import Attachment
from retinue_engine.stores.rows import BlobRow

Content = str | list[dict[str, Any]]
"""A message's content in the OpenAI chat format: a text, or parts."""

_SCHEME = "retinue-blob:"

FindBlob = Callable[[str, str], Awaitable[bytes | None]]
"""Takes the id of a run and of a blob; gives the bytes, None where they are gone."""


def content_parts(text: str, run_id: str, attachments: Iterable[Attachment]) -> list[dict[str, Any]]:
    """The content of a message with attachments, which belong to a run."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    for each in attachments:
        url = f"{_SCHEME}{run_id}/{each.blob_id};{each.mime_type}"
        if each.mime_type.startswith("image/"):
            parts.append({"type": "image_url", "image_url": {"url": url}})
        else:
            parts.append({"type": "file", "file": {"filename": each.name or "file", "file_data": url}})
    return parts


def message_content(text: str, run_id: str, attachments: Sequence[Attachment]) -> Content:
    """The content of what a run was asked."""
    return content_parts(text, run_id, attachments) if attachments else text


def new_blob(root_run_id: str, mime_type: str, name: str, data: bytes) -> BlobRow:
    """A blob of a run tree. The same bytes have the same id."""
    return BlobRow(root_run_id, f"blob-{hashlib.sha256(data).hexdigest()}", mime_type, name, data)


async def with_bytes(messages: Iterable[dict[str, Any]], find: FindBlob) -> list[dict[str, Any]]:
    """The messages, each reference replaced by a `data:` URL; what is gone, by a text that says so."""
    return [
        {**message, "content": [await _part(part, find) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


async def _part(part: dict[str, Any], find: FindBlob) -> dict[str, Any]:
    kind, key = ("image_url", "url") if part["type"] == "image_url" else ("file", "file_data")
    if part["type"] not in ("image_url", "file") or not part[kind][key].startswith(_SCHEME):
        return part
    place, mime_type = part[kind][key].removeprefix(_SCHEME).split(";", 1)
    run_id, blob_id = place.split("/", 1)
    data = await find(run_id, blob_id)
    if data is None:
        return {"type": "text", "text": "[an attachment that is not kept any more]"}
    url = f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
    return {**part, kind: {**part[kind], key: url}}
