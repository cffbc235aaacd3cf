"""How a session with a server begins: what it is offered, and in which revision of MCP both speak."""

import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib import metadata
from typing import Any

from mcp.client.session import ClientSession
from mcp.client.subscriptions import SubscriptionLost, listen
from mcp.shared.dispatcher import CallOptions, Dispatcher, ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_METHOD_HEADER
from mcp_types import (
    CONNECTION_CLOSED,
    HEADER_MISMATCH,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    ClientCapabilities,
    DiscoverResult,
    ElicitationCapability,
    FormElicitationCapability,
    Implementation,
    InitializedNotification,
    InitializeRequest,
    InitializeRequestParams,
    InitializeResult,
    ListToolsResult,
    RootsCapability,
    SamplingCapability,
)
from mcp_types import Tool as SdkTool
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from pydantic import ValidationError

from retinue_mcp_host.connections.login_wanted import LOGIN_WANTED
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.model import ServerInfo, ServerSpec

CLIENT_INFO = Implementation(name="retinue", version=metadata.version("retinue"))
"""Who we are, for servers."""


def offered_capabilities(offer: Offer) -> ClientCapabilities:
    """What servers are told that they may ask: forms for people, roots and sampling by config."""
    return ClientCapabilities(
        elicitation=ElicitationCapability(form=FormElicitationCapability()),
        roots=RootsCapability() if offer.has_roots else None,
        sampling=SamplingCapability() if offer.has_sampling else None,
    )


_TOO_NEW = (UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND, HEADER_MISMATCH)
"""How a server answers the handshake that has none; the last where it looks at the headers first."""


class OfferingSession(ClientSession):
    """The SDK's session, which would derive what is offered from callbacks that are not used here."""

    def __init__(self, offer: Offer, dispatcher: Dispatcher[Any]) -> None:
        super().__init__(dispatcher=dispatcher, client_info=CLIENT_INFO)
        self.offered = offered_capabilities(offer)
        self._stamp = _first_words

    async def initialize(self, revision: str = LATEST_HANDSHAKE_VERSION) -> InitializeResult:
        """Shake hands. A server that answers with a revision that has no handshake is taken at its word.

        Raises MCPError, ValidationError, RuntimeError.
        """
        params = InitializeRequestParams(
            protocol_version=revision, capabilities=self.offered, client_info=CLIENT_INFO
        )
        result = await self.send_request(InitializeRequest(params=params), InitializeResult)
        if result.protocol_version in MODERN_PROTOCOL_VERSIONS:
            self.adopt(
                DiscoverResult(
                    supported_versions=[result.protocol_version],
                    capabilities=result.capabilities,
                    instructions=result.instructions,
                    ttl_ms=0,
                    cache_scope="private",
                )
            )
            return result
        if result.protocol_version not in HANDSHAKE_PROTOCOL_VERSIONS:
            raise RuntimeError(
                f"it speaks revision {result.protocol_version!r} of MCP, which is not known here"
            )
        self.adopt(result)
        await self.send_notification(InitializedNotification())
        return result

    def _build_capabilities(self, version: str) -> ClientCapabilities:
        del version
        return self.offered

    async def ask(
        self, method: str, params: dict[str, Any], on_progress: ProgressFnT | None = None
    ) -> dict[str, Any]:
        """Ask with what the revision wants beside, and return the result as it came. Raises MCPError."""
        data: dict[str, Any] = {"method": method, "params": params}
        options: CallOptions = {"on_progress": on_progress} if on_progress else {}
        self._stamp(data, options)
        return await self._dispatcher.send_raw_request(method, data["params"], options)

    def absorb_tools(self, page: dict[str, Any]) -> dict[str, Any]:
        """Note which arguments of tools travel as headers too; leave out tools whose headers cannot be.

        From 2026-07-28 on HTTP clients must. A tool that is otherwise out of shape stays, without headers.
        """
        items = page.get("tools")
        if not isinstance(items, list):
            return page
        known: dict[str, SdkTool] = {}
        for item in items:
            with contextlib.suppress(ValidationError):
                tool = SdkTool.model_validate(item, by_name=False)
                known[tool.name] = tool
        result = ListToolsResult(tools=list(known.values()), ttl_ms=0, cache_scope="private")
        kept = {tool.name for tool in self._absorb_tool_listing(result, complete=False).tools}
        dropped = known.keys() - kept
        left = [item for item in items if not (isinstance(item, dict) and item.get("name") in dropped)]
        return {**page, "tools": left}


def _first_words(data: dict[str, Any], options: CallOptions) -> None:
    """What goes with a request before a revision is agreed on: newer servers want the method as a header."""
    options.setdefault("headers", {})[MCP_METHOD_HEADER] = data["method"]
    options["cancel_on_abandon"] = False


async def negotiate(
    stack: AsyncExitStack, session: OfferingSession, spec: ServerSpec, revisions: Revisions
) -> None:
    """Agree on a revision: by the handshake, or by `server/discover` where the server is too new for it.

    See ADR 0004 for the order; a server that was met before is asked in its own words first, else in those
    that its config says. Raises MCPError, ValidationError, RuntimeError.
    """
    known = revisions.find(spec.namespace, spec.name, spec.version) or spec.revision
    if known in MODERN_PROTOCOL_VERSIONS:
        await _discover_first(session)
    else:
        await _initialize_first(session, spec.revision)
    agreed = session.protocol_version or ""
    revisions.remember(spec.namespace, spec.name, spec.version, agreed)
    if agreed in MODERN_PROTOCOL_VERSIONS:
        await _follow_lists(stack, session)


async def _initialize_first(session: OfferingSession, revision: str) -> None:
    # A server may have a handshake where its config says that it has none.
    offered = revision if revision in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
    try:
        await session.initialize(offered)
    except MCPError as refused:
        if refused.code not in _TOO_NEW:
            raise
        try:
            await session.discover()
        except MCPError as error:
            if error.code == LOGIN_WANTED:
                raise
            raise refused from None


async def _discover_first(session: OfferingSession) -> None:
    try:
        await session.discover()
    except MCPError as refused:
        if refused.code in (CONNECTION_CLOSED, LOGIN_WANTED):
            raise
        # It speaks something else by now: another program stands at the same address.
        await session.initialize()


async def _follow_lists(stack: AsyncExitStack, session: ClientSession) -> None:
    # From 2026-07-28 on a server says only to who listens that its lists changed. One that lets nobody listen
    # is used all the same.
    can = session.server_capabilities
    if can is None:
        return
    tools = can.tools is not None and can.tools.list_changed is True
    prompts = can.prompts is not None and can.prompts.list_changed is True
    resources = can.resources is not None and can.resources.list_changed is True
    if tools or prompts or resources:
        with contextlib.suppress(MCPError, SubscriptionLost):
            await stack.enter_async_context(
                listen(
                    session,
                    tools_list_changed=tools,
                    prompts_list_changed=prompts,
                    resources_list_changed=resources,
                )
            )


def server_info(session: ClientSession) -> ServerInfo:
    """What a server has said about itself in the negotiation."""
    can, own = session.server_capabilities, session.server_info
    resources = can.resources if can else None
    return ServerInfo(
        name=own.name if own else "",
        version=own.version if own else "",
        instructions=session.instructions or "",
        revision=session.protocol_version or "",
        tools=can is not None and can.tools is not None,
        resources=resources is not None,
        resource_subscriptions=resources is not None and resources.subscribe is True,
        prompts=can is not None and can.prompts is not None,
        completions=can is not None and can.completions is not None,
        logging=can is not None and can.logging is not None,
    )


async def listen_to(session: ClientSession, uri: str, stands: Callable[[], None]) -> None:
    """Be told of a resource until cancelled, as revisions from 2026-07-28 on have it.

    Raises MCPError, SubscriptionLost.
    """
    async with listen(session, resource_subscriptions=[uri]) as stream:
        if uri not in (stream.honored.resource_subscriptions or ()):
            raise MCPError(METHOD_NOT_FOUND, "resources cannot be watched")
        stands()
        async for _ in stream:
            pass  # what comes is told as every notification
