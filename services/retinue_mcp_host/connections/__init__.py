"""One connection to one MCP server: transports, JSON-RPC, the session, and what goes over it."""
