"""The LLM adapter, part by part."""
