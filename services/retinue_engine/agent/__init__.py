"""The agent loop: a model, its tools, and the conversation between them."""
