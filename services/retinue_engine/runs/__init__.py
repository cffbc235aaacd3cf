"""Runs: accepted, worked on, let go of, taken over."""
