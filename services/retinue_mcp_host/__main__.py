"""The MCP host manager as a process."""

import sys

from retinue_kit.server import run_service
from retinue_mcp_host.app import open_app
from retinue_mcp_host.settings import McpHostSettings


def main() -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    return run_service(McpHostSettings, McpHostSettings.service, open_app)


if __name__ == "__main__":
    sys.exit(main())
