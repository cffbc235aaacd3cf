"""A session with a server that the host starts as a process."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mcp.client.session import ClientSession
from mcp.shared.exceptions import MCPError
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connection_rpc import PipeRpc
from retinue_mcp_host.connection_session import (
    CLIENT_INFO,
    OfferingSession,
    Session,
    error_from_mcp,
    negotiate,
    offered_capabilities,
)
from retinue_mcp_host.failures import connect_timeout, unavailable
from retinue_mcp_host.model import Limits, OnProgress, ServerSpec, StdioTransport
from retinue_mcp_host.offer import Offer
from retinue_mcp_host.process import find_command, server_environment
from retinue_mcp_host.stderr import StderrTail


async def open_stdio(
    stack: AsyncExitStack,
    spec: ServerSpec,
    transport: StdioTransport,
    limits: Limits,
    *,
    on_tools_changed: Callable[[], None],
    on_gone: Callable[[], None],
) -> Session:
    """Start a server and agree with it. Leaving the stack ends it with its whole process group.

    Raises McpServerUnavailableError, McpTimeoutError, McpProtocolError, SecretNotFoundError.
    """
    env = {name: resolve_secret(value, field=f"stdio.env.{name}") for name, value in transport.env.items()}
    environment = server_environment(env)
    argv = _argv(spec, transport, environment)
    tail = StderrTail([value for name, value in env.items() if value != transport.env[name]])
    offer = Offer(spec, limits.max_result_bytes)
    rpc = PipeRpc(
        tail,
        max_message_bytes=limits.max_server_message_bytes,
        offer=offer,
        on_tools_changed=on_tools_changed,
        on_gone=on_gone,
    )
    wire = StdioWire(rpc)
    stack.push_async_callback(rpc.process.aclose)
    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            await rpc.process.start(argv, environment, transport.cwd or None)
            session = await stack.enter_async_context(OfferingSession(offer, rpc))
            stack.callback(rpc.close)
            await negotiate(stack, session)
    except TimeoutError:
        raise connect_timeout(spec, wire.stderr) from None
    except OSError as error:
        raise unavailable(spec, f"cannot be started: {argv[0]}: {error.strerror}") from error
    except (MCPError, ValidationError, RuntimeError) as error:
        raise error_from_mcp(spec, error, wire) from error
    wire.speak(session, offer)
    return Session(spec, wire, offer, limits.max_result_bytes)


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


class StdioWire:
    """Requests over a process's pipes."""

    def __init__(self, rpc: PipeRpc) -> None:
        self._rpc = rpc
        self._envelope: dict[str, Any] = {}

    def speak(self, session: ClientSession, offer: Offer) -> None:
        """Speak the revision that a session has agreed on: from 2026-07-28 on, each request says who asks."""
        version = session.protocol_version
        if version in MODERN_PROTOCOL_VERSIONS:
            self._envelope = {
                PROTOCOL_VERSION_META_KEY: version,
                CLIENT_INFO_META_KEY: CLIENT_INFO.model_dump(by_alias=True, mode="json", exclude_none=True),
                CLIENT_CAPABILITIES_META_KEY: offered_capabilities(offer).model_dump(
                    by_alias=True, mode="json", exclude_none=True
                ),
            }

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

    def gone(self) -> str | None:
        """How the process ended; None while it can answer."""
        return self._rpc.process.ending() if self._rpc.process.gone else None

    def stderr(self, max_bytes: int) -> str:
        """The last lines of its stderr."""
        return self._rpc.process.tail.text(max_bytes)
