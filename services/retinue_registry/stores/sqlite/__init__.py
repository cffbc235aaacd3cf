"""Components in one SQLite file."""
