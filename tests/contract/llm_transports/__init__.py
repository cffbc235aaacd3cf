"""One suite over both LLM transports."""
