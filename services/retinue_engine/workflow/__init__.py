"""Workflows: what they run, how far they are, how they go on."""
