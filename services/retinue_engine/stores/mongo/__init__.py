"""Runs, journals and sessions in MongoDB."""
