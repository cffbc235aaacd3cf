"""Runs, journals and sessions in one SQLite file."""
