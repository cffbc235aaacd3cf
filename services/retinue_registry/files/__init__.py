"""A project's files: found, read with their line numbers, and checked."""
