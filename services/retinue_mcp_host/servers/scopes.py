"""Whose connection a caller takes: the one that all share, its session's, or its run tree's."""

from retinue_mcp_host.model import SHARED, CallerScope, ServerSpec


def scope_of(spec: ServerSpec, caller: CallerScope) -> str:
    """The scope of the connection for a caller; those outside of sessions and runs have one together."""
    if spec.scope == "shared":
        return SHARED
    if spec.scope == "session" and caller.session_id:
        return caller.session_id
    return caller.root_run_id or SHARED
