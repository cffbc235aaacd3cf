"""Which transport opens a session. Importing this imports the SDK, about half a second; see `Connection`."""

from contextlib import AsyncExitStack

from retinue_mcp_host.connections.http import open_http
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.connections.session import Session
from retinue_mcp_host.connections.sse import open_sse
from retinue_mcp_host.connections.stdio import open_stdio
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import HttpTransport, Limits, ServerSpec, StdioTransport


async def open_session(
    stack: AsyncExitStack,
    spec: ServerSpec,
    limits: Limits,
    notices: Notices,
    revisions: Revisions,
    logins: Logins,
) -> Session:
    """Connect and agree on a revision. Leaving the stack ends the connection. Raises RetinueError.

    `notices` are told as the server says or shows it.
    """
    transport = spec.transport
    if isinstance(transport, StdioTransport):
        return await open_stdio(stack, spec, transport, limits, notices, revisions)
    if isinstance(transport, HttpTransport):
        return await open_http(stack, spec, transport, limits, notices, revisions, logins)
    return await open_sse(stack, spec, transport, limits, notices, revisions, logins)
