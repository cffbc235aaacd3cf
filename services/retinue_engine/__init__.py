"""The execution engine: runs, their journals, sessions."""
