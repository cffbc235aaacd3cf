"""What MCP servers have beside tools."""
