"""Which tools a caller has: one rule, for listing and for calling."""

from fnmatch import fnmatchcase
from typing import NamedTuple

from retinue.errors import McpToolNotAllowedError


class ToolSelector(NamedTuple):
    """Tools of servers."""

    server: str = ""
    """The exact name of a server; each where it is empty."""
    tool: str = ""
    """A name, or a pattern with `*` and `?`; all where it is empty."""

    def fits(self, server: str, tool: str) -> bool:
        """Whether a tool is one of them."""
        # A bracket stands for itself here.
        return self.server in ("", server) and (
            not self.tool or fnmatchcase(tool, self.tool.replace("[", "[[]"))
        )


class ToolAccess(NamedTuple):
    """What a caller has: what is allowed, all where nothing is, without what is excluded."""

    allowed: tuple[ToolSelector, ...] = ()
    excluded: tuple[ToolSelector, ...] = ()


ALL_TOOLS = ToolAccess()


def is_allowed(access: ToolAccess, server: str, tool: str) -> bool:
    """Whether a caller sees a tool, and may call it."""
    if any(each.fits(server, tool) for each in access.excluded):
        return False
    return not access.allowed or any(each.fits(server, tool) for each in access.allowed)


def check_access(access: ToolAccess, server: str, tool: str) -> None:
    """Raises McpToolNotAllowedError for a tool that the caller does not have."""
    if not is_allowed(access, server, tool):
        raise McpToolNotAllowedError(
            f"tool {tool} of MCP server {server} is not among the tools of this caller: see the agent's "
            "allowed_tools and excluded_tools",
            server=server,
            tool=tool,
        )
