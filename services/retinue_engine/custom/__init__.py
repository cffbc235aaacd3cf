"""Custom workflows: code in a process of its own, whose calls are in the journal."""
