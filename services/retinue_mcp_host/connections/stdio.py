"""A session with a server that the host starts as a process."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connections.negotiation import OfferingSession, negotiate
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.connections.pipe import PipeRpc
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.connections.session import Session, error_from_mcp, open_session_on
from retinue_mcp_host.connections.wire import RpcWire
from retinue_mcp_host.failures import connect_timeout, unavailable
from retinue_mcp_host.model import Limits, ServerSpec, StdioTransport
from retinue_mcp_host.processes.process import find_command, server_environment
from retinue_mcp_host.processes.stderr import StderrTail


async def open_stdio(
    stack: AsyncExitStack,
    spec: ServerSpec,
    transport: StdioTransport,
    limits: Limits,
    notices: Notices,
    revisions: Revisions,
) -> Session:
    """Start a server and agree with it. Leaving the stack ends it with its whole process group.

    Raises McpServerUnavailableError, McpTimeoutError, McpProtocolError, SecretNotFoundError.
    """
    secrets: list[str] = []
    env = {
        name: resolve_secret(value, field=f"stdio.env.{name}", values=secrets)
        for name, value in transport.env.items()
    }
    environment = server_environment(env)
    argv = _argv(spec, transport, environment)
    tail = StderrTail(secrets, notices.log.add_lines if notices.log is not None else None)
    if notices.log is not None:
        notices.log.hide(secrets)
    offer = Offer(spec, limits.max_result_bytes)
    rpc = PipeRpc(tail, offer, notices, limits.max_server_message_bytes)
    process = rpc.process
    wire = RpcWire(rpc, lambda: process.ending() if process.gone else None, tail.text)
    wire.secrets = secrets
    stack.push_async_callback(process.aclose)
    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            await process.start(argv, environment, transport.cwd or None)
            session = await stack.enter_async_context(OfferingSession(offer, rpc))
            stack.callback(rpc.close)
            await negotiate(stack, session, spec, revisions)
    except TimeoutError:
        raise connect_timeout(spec, wire.stderr) from None
    except OSError as error:
        raise unavailable(spec, f"cannot be started: {argv[0]}: {error.strerror}") from error
    except (MCPError, ValidationError, RuntimeError) as error:
        raise error_from_mcp(spec, error, wire) from error
    wire.speak(session)
    opened = await open_session_on(stack, session, spec, wire, offer, notices, limits)
    opened.process_id = process.pid
    return opened


def _argv(spec: ServerSpec, transport: StdioTransport, environment: Mapping[str, str]) -> list[str]:
    """What to start. Raises McpServerUnavailableError where the program or the folder is not there."""
    command = find_command(transport.command, environment)
    if command is None:
        raise unavailable(
            spec, f"cannot be started: no program {transport.command} on PATH; install it or give its path"
        )
    if transport.cwd and not Path(transport.cwd).is_dir():
        raise unavailable(spec, f"cannot be started: no folder {transport.cwd}; create it or set another cwd")
    return [command, *transport.args]
