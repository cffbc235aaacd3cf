"""Processes killed, streams cut; afterwards every story is read."""
