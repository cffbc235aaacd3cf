"""Logins of people to MCP servers: how one is made, who holds it, and how it is kept."""
