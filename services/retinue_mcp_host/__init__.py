"""The MCP host manager: live connections to MCP servers, and their tools."""
