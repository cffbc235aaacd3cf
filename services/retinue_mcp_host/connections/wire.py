"""Requests of a session over the host's own JSON-RPC: a process's pipes, or HTTP with SSE."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    LOG_LEVEL_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from retinue_mcp_host.connections.negotiation import CLIENT_INFO, OfferingSession
from retinue_mcp_host.connections.rpc import JsonRpc
from retinue_mcp_host.failures import Stderr, no_stderr
from retinue_mcp_host.model import OnProgress


class RpcWire:
    """What a session asks, in the form of the revision that was agreed on."""

    def __init__(self, rpc: JsonRpc, gone: Callable[[], str | None], stderr: Stderr = no_stderr) -> None:
        self._rpc = rpc
        self._envelope: dict[str, Any] = {}
        self.secrets: Sequence[str] = ()
        self.gone = gone
        self.stderr = stderr

    def speak(self, session: OfferingSession) -> None:
        """Speak the revision that a session has agreed on: from 2026-07-28 on, each request says who asks."""
        version = session.protocol_version
        if version in MODERN_PROTOCOL_VERSIONS:
            self._envelope = {
                PROTOCOL_VERSION_META_KEY: version,
                CLIENT_INFO_META_KEY: CLIENT_INFO.model_dump(by_alias=True, mode="json", exclude_none=True),
                CLIENT_CAPABILITIES_META_KEY: session.offered.model_dump(
                    by_alias=True, mode="json", exclude_none=True
                ),
            }

    def log_from(self, level: str) -> None:
        """Ask with each request, as revisions from 2026-07-28 on have it, for log messages of a level."""
        self._envelope[LOG_LEVEL_META_KEY] = level

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and return the result as it came. Raises MCPError."""
        if self._envelope:
            params = {**params, "_meta": self._envelope}
        return await self._rpc.send_raw_request(method, params)

    async def call_tool(
        self,
        name: str,
        arguments_json: bytes,
        meta: Mapping[str, Any],
        on_progress: OnProgress | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call a tool and return the result as it came. Raises MCPError."""
        if self._envelope:
            meta = {**self._envelope, **meta}
        return await self._rpc.call_tool(name, arguments_json, meta, on_progress, more)
