"""Tool calls in rounds, as MCP has them from 2026-07-28 on: a result that asks, and the call made again."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from retinue.errors import McpProtocolError, McpRequestRefusedError
from retinue_mcp_host.calls.server_requests import Caller, RefusedError
from retinue_mcp_host.connections.offer import Offer

MAX_ROUNDS = 10
"""As other clients have it."""
NOT_YET_S = 0.25
"""Before a call is made again where the server asks for nothing but that."""


async def answer_rounds(
    raw: dict[str, Any],
    server: str,
    tool: str,
    offer: Offer,
    caller: Caller,
    call: Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]],
) -> dict[str, Any]:
    """Answer what results ask for, and call again with it, until one is complete.

    Raises McpProtocolError, McpRequestRefusedError, and what `call` raises.
    """
    for _ in range(MAX_ROUNDS):
        kind = raw.get("resultType", "complete")
        if kind == "complete":
            return raw
        requests, state = raw.get("inputRequests") or {}, raw.get("requestState")
        if kind != "input_required" or not isinstance(requests, dict) or not (requests or state is not None):
            raise McpProtocolError(
                f"MCP server {server}: tool {tool} asks back ({kind}) for nothing that this host knows",
                server=server,
            )
        more: dict[str, Any] = {} if state is None else {"requestState": state}
        if requests:
            try:
                more["inputResponses"] = await _answers(requests, offer, caller)
            except RefusedError as refused:
                raise McpRequestRefusedError(
                    f"MCP server {server}: tool {tool} does not get what it asks for: {refused.message}",
                    server=server,
                    code=refused.code,
                ) from None
        else:
            await asyncio.sleep(NOT_YET_S)
        raw = await call(more)
    raise McpProtocolError(
        f"MCP server {server}: tool {tool} asks back more than {MAX_ROUNDS} times", server=server
    )


async def _answers(requests: dict[str, Any], offer: Offer, caller: Caller) -> dict[str, Any]:
    """The answers by the server's names, all asked for at once. Raises RefusedError."""
    asked = {}
    for name, request in requests.items():
        parts = request if isinstance(request, dict) else {}
        asked[name] = offer.ask(parts.get("method"), parts.get("params"), caller)
    return {name: await outcome for name, outcome in asked.items()}
