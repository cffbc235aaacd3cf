"""The registry's stores: every version of every component, in SQLite and in MongoDB."""
