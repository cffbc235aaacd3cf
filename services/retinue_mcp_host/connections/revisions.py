"""What each version of each server speaks, so that a later connect asks in the right words at once."""

MAX_REMEMBERED = 10_000
"""Servers; forgetting one costs its next connect one question."""

_Key = tuple[str, str, int]


class Revisions:
    """The revisions of MCP that were agreed on, by namespace, name and version of a server's component."""

    def __init__(self) -> None:
        self._spoken: dict[_Key, str] = {}

    def find(self, namespace: str, server: str, version: int) -> str:
        """What was agreed on last; empty where nothing is known."""
        return self._spoken.get((namespace, server, version), "")

    def remember(self, namespace: str, server: str, version: int, revision: str) -> None:
        """Note what was agreed on."""
        key = (namespace, server, version)
        if key not in self._spoken and len(self._spoken) >= MAX_REMEMBERED:
            del self._spoken[next(iter(self._spoken))]
        self._spoken[key] = revision
