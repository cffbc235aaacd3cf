"""The name of a tool as a model sees it: a pure function of server and tool, never taken apart again."""

import hashlib
import re

MAX_NAME_CHARS = 64
"""What every provider takes."""

_HASH_CHARS = 10
_FOREIGN = re.compile(r"[^a-zA-Z0-9_-]")
_LOOKS_HASHED = re.compile(rf"_[0-9a-f]{{{_HASH_CHARS}}}$")


def display_name(server: str, tool: str) -> str:
    """`{server}__{tool}`, 1 to 64 of [a-zA-Z0-9_-].

    Where that is not exact (a character replaced, a part cut off) or could also stand for another pair, a
    hash of the pair follows, so that two pairs have two names.
    """
    joined = f"{_FOREIGN.sub('_', server)}__{_FOREIGN.sub('_', tool)}"
    if joined == f"{server}__{tool}" and len(joined) <= MAX_NAME_CHARS and not _ambiguous(server, tool):
        return joined
    # The zero byte cannot stand in a name, so no two pairs give the same text.
    digest = hashlib.sha256(f"{server}\0{tool}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{joined[: MAX_NAME_CHARS - _HASH_CHARS - 1]}_{digest[:_HASH_CHARS]}"


def _ambiguous(server: str, tool: str) -> bool:
    """Whether the join could be read as another pair, or as a name that ends in a hash."""
    return (
        not server
        or not tool
        or "__" in server
        or "__" in tool
        or server.endswith("_")
        or tool.startswith("_")
        or _LOOKS_HASHED.search(tool) is not None
    )
