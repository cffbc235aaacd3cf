"""Who is told that a server's tools may be others now."""

from retinue_mcp_host.model import Change


class Changes:
    """The listeners; each is told of every server of every namespace."""

    def __init__(self) -> None:
        self._listeners: set[Change] = set()

    def listen(self, listener: Change) -> None:
        """Tell a listener from now on. It must not block."""
        self._listeners.add(listener)

    def unlisten(self, listener: Change) -> None:
        """Tell it no more."""
        self._listeners.discard(listener)

    def tell(self, namespace: str, server: str) -> None:
        """Tell all listeners."""
        for listener in tuple(self._listeners):
            listener(namespace, server)
