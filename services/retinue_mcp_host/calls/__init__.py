"""Calls of tools: from a name to the connection to the answer."""
