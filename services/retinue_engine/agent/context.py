"""What of a long conversation the model is still sent: estimates of tokens, and what to leave out."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CHARS_PER_TOKEN = 4
MESSAGE_TOKENS = 4
MEDIA_TOKENS = 800
"""Of an image, and of each piece of another file."""

_MEDIA_PIECE_CHARS = 64 * 1024
"""Base64 of a file that is not text: about a page of a PDF, with what it draws."""

_TARGET_PERCENT = 80
"""Of the limit: what is left out is more than must be, or each turn would leave out a little more."""


class Trim(NamedTuple):
    """What is left out of a conversation."""

    omitted: int
    """Messages, counted from the first that may be left out; 0 where none may be."""
    tokens_before: int
    tokens_after: int
    fits: bool
    """Whether the rest is within the limit; where not, nothing more may be left out."""


def estimate_tokens(message: Mapping[str, Any]) -> int:
    """Tokens of a message in the OpenAI chat format, by its length: no tokenizer, the same everywhere."""
    content = message.get("content")
    chars, media = (len(content), 0) if isinstance(content, str) else _measure(content)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        chars += len(function["name"]) + len(function["arguments"])
    return chars // CHARS_PER_TOKEN + media + MESSAGE_TOKENS


def plan_trim(
    messages: Sequence[Mapping[str, Any]], first: int, limit: int, keep_from: int | None = None
) -> Trim | None:
    """What to leave out so that the model is sent at most `limit` tokens; None where that is so already.

    `messages` are those that would be sent; from `first` on they may be left out. A call stays with its
    results. `keep_from`, the place of a message of role `user`, and all after it is kept: the last one where
    it is not said. It has to be said where such a message is not the user's own.
    """
    tokens = list(map(estimate_tokens, messages))
    before = after = sum(tokens)
    if before <= limit:
        return None
    if keep_from is None:
        keep_from = _last_user(messages, first)
    target = limit * _TARGET_PERCENT // 100
    cut = first
    while cut < keep_from and after > target:
        end = _group_end(messages, cut)
        after -= sum(tokens[cut:end])
        cut = end
    return Trim(cut - first, before, after, after <= limit)


def _last_user(messages: Sequence[Mapping[str, Any]], first: int) -> int:
    for place in range(len(messages) - 1, first, -1):
        if messages[place]["role"] == "user":
            return place
    return first


def _group_end(messages: Sequence[Mapping[str, Any]], start: int) -> int:
    """Where the group ends that begins here: at the next message of a user.

    A call stays with its results so, and no conversation begins with an answer, which some providers refuse.
    """
    end = start + 1
    while end < len(messages) and messages[end]["role"] != "user":
        end += 1
    return end


def _measure(content: Any) -> tuple[int, int]:
    """Characters of text in content parts, and tokens of what is not text."""
    chars = media = 0
    for part in content or ():
        kind = part.get("type")
        if kind == "text":
            chars += len(part["text"])
        elif kind == "image_url":
            media += MEDIA_TOKENS
        else:
            data = (part.get("file") or {}).get("file_data", "")
            if data.startswith("data:text/"):
                chars += len(data) * 3 // 4  # base64 writes 3 bytes as 4 characters
            else:
                size = len(data) or len(json.dumps(part))
                media += MEDIA_TOKENS * -(-size // _MEDIA_PIECE_CHARS)
    return chars, media
