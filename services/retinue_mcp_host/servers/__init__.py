"""MCP servers as people configure and watch them: specs, state, supervision, logs."""
