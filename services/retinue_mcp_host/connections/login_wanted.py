"""How a request fails that only a login can help: its caller alone is told, and the connection goes on."""

from collections.abc import AsyncIterator

import httpx2
import orjson

from retinue_mcp_host.connections.bounded import UnreadStream
from retinue_mcp_host.connections.oauth_requests import NoTokenError

LOGIN_WANTED = -32095
"""Our own code for a request that the server refused for want of a login; its data are the missing scopes."""
_MARK = "retinue_login_wanted"


class LoginWantedError(NoTokenError):
    """The server wants a login of a person, or one that grants more."""

    def __init__(self, missing_scopes: str = "") -> None:
        super().__init__("wants a login")
        self._missing_scopes = missing_scopes

    def answer(self, response: httpx2.Response) -> None:
        """Put this in the place of what the server says, as JSON-RPC has errors: the SDK passes it on."""
        error = {"code": LOGIN_WANTED, "message": str(self), "data": self._missing_scopes}
        response.headers = httpx2.Headers({"content-type": "application/json"})
        response.stream = _Said(response.stream, orjson.dumps({"jsonrpc": "2.0", "id": None, "error": error}))
        response.extensions[_MARK] = self._missing_scopes


def wanted_scopes(response: httpx2.Response) -> str | None:
    """The scopes that a refused request lacks; None where it was not refused for want of a login."""
    found = response.extensions.get(_MARK)
    return found if isinstance(found, str) else None


class _Said(UnreadStream):
    """A body of our own in the place of one."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, content: bytes) -> None:
        super().__init__(stream)
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
