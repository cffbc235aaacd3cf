"""The MCP host manager: live connections to MCP servers, and their tools."""

import retinue_kit  # noqa: F401 - before gRPC is imported
