"""The engine's stores: what is kept, in SQLite and in MongoDB."""
