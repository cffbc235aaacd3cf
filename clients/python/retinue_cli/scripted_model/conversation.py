"""A conversation as rules and templates see it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r"\{(last_user|last_tool|attachments|model|turn)\}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What was said so far, as plain text."""

    model: str
    """The model that was asked for."""
    turn: int
    """Which answer of the model this is: 1 plus the assistant messages so far."""
    last_role: str
    system: str
    last_user: str
    tool_results: tuple[str, ...]
    """Results of tools since the last user message, in order."""
    images: tuple[str, ...] = ()
    """Images of the last user message and of what follows it, each as media type and size."""
    files: tuple[str, ...] = ()
    """Files likewise, with their names."""
    response_format: str = "text"
    """The kind of answer that the request asks for: `text`, `json_object`, `json_schema`."""

    def fill(self, template: str) -> str:
        """The template with its placeholders filled; what is filled in is never looked at again."""
        values = {
            "last_user": self.last_user,
            "last_tool": self.tool_results[-1] if self.tool_results else "",
            "attachments": "; ".join(self.images + self.files),
            "model": self.model,
            "turn": str(self.turn),
        }
        return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def read_conversation(
    model: str, messages: Sequence[Mapping[str, Any]], response_format: str = "text"
) -> Conversation:
    """The conversation of a request in the OpenAI format."""
    last_user, system = "", []
    results: list[str] = []
    parts: list[Mapping[str, Any]] = []
    turn = 1
    for message in messages:
        role, text = message.get("role"), _text(message.get("content"))
        if role == "user":
            last_user = text
            results, parts = [], []
        elif role == "tool":
            results.append(text)
        elif role == "assistant":
            turn += 1
        elif role in {"system", "developer"}:
            system.append(text)
        parts += _parts(message.get("content"))
    return Conversation(
        model=model,
        turn=turn,
        last_role=str(messages[-1].get("role")) if messages else "",
        system="\n".join(system),
        last_user=last_user,
        tool_results=tuple(results),
        images=tuple(_described(part, "url") for part in parts if part.get("type") == "image_url"),
        files=tuple(_described(part, "file_data") for part in parts if part.get("type") == "file"),
        response_format=response_format,
    )


def _text(content: Any) -> str:
    """Content is text, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in _parts(content) if isinstance(part.get("text"), str))


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _described(part: Mapping[str, Any], data_key: str) -> str:
    """An image or file as `report.pdf, application/pdf, 2048 bytes`."""
    inner = part.get(str(part["type"]))
    inner = inner if isinstance(inner, dict) else {}
    name, data = inner.get("filename"), inner.get(data_key)
    said = [name] if isinstance(name, str) else []
    if isinstance(data, str):
        head, comma, payload = data.partition(",")
        if comma and head.startswith("data:"):
            size = len(payload) * 3 // 4 - payload.count("=", -2)
            said += [head.removeprefix("data:").partition(";")[0], f"{size} bytes"]
        else:
            said.append(data)
    return ", ".join(said)
