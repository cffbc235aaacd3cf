"""The LLM adapter: one interface, `model.py`, and two transports behind it."""
