"""One suite over every store of the registry."""
