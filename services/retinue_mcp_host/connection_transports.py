"""Which transport opens a session. Importing this imports the SDK, about half a second; see `Connection`."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from retinue_mcp_host.connection_http import open_http
from retinue_mcp_host.connection_session import Session
from retinue_mcp_host.connection_stdio import open_stdio
from retinue_mcp_host.model import Limits, ServerSpec, StdioTransport


async def open_session(
    stack: AsyncExitStack,
    spec: ServerSpec,
    limits: Limits,
    *,
    on_tools_changed: Callable[[], None],
    on_gone: Callable[[], None],
) -> Session:
    """Connect and agree on a revision. Leaving the stack ends the connection. Raises RetinueError.

    `on_tools_changed` and `on_gone` are called as the server says or shows it; they must not block.
    """
    if isinstance(spec.transport, StdioTransport):
        return await open_stdio(
            stack, spec, spec.transport, limits, on_tools_changed=on_tools_changed, on_gone=on_gone
        )
    return await open_http(
        stack, spec, spec.transport, limits, on_tools_changed=on_tools_changed, on_gone=on_gone
    )
