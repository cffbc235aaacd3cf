"""Tools, by way of the MCP host."""
