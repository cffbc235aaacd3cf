"""A conversation as rules and templates see it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r"\{(last_user|last_tool|model|turn)\}")


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

    def fill(self, template: str) -> str:
        """The template with its placeholders filled; what is filled in is never looked at again."""
        values = {
            "last_user": self.last_user,
            "last_tool": self.tool_results[-1] if self.tool_results else "",
            "model": self.model,
            "turn": str(self.turn),
        }
        return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def read_conversation(model: str, messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """The conversation of a request in the OpenAI format."""
    last_user, system = "", []
    results: list[str] = []
    turn = 1
    for message in messages:
        role, text = message.get("role"), _text(message.get("content"))
        if role == "user":
            last_user = text
            results = []
        elif role == "tool":
            results.append(text)
        elif role == "assistant":
            turn += 1
        elif role in {"system", "developer"}:
            system.append(text)
    last_role = str(messages[-1].get("role")) if messages else ""
    return Conversation(model, turn, last_role, "\n".join(system), last_user, tuple(results))


def _text(content: Any) -> str:
    """Content is text, or a list of parts of which some are text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return ""
