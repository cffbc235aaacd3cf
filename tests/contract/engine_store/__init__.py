"""One suite over every store of the engine."""
