"""What the registry's messages say of MCP servers."""

from retinue.registry.v1 import mcp_server_pb2, service_pb2
from retinue.registry.v1.component_pb2 import Component
from retinue_mcp_host.convert import MCP_SERVER

_SHARED = (mcp_server_pb2.SERVER_SCOPE_UNSPECIFIED, mcp_server_pb2.SERVER_SCOPE_SHARED)


def is_warm(component: Component) -> bool:
    """Whether a server is connected before its first use; of one that is not shared nobody knows for whom."""
    return component.mcp_server.prewarm and component.mcp_server.scope in _SHARED


def changed_server(change: service_pb2.ComponentChange) -> tuple[str, Component | None] | None:
    """The name of the server that a change is about, and what it is now; None for another kind."""
    component = change.component
    if component.kind != MCP_SERVER:
        return None
    is_gone = change.type == service_pb2.CHANGE_TYPE_DELETED
    return component.name, None if is_gone else component
