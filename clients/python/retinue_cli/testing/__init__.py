"""Tests in a file: what is run against the scripted model, and what is expected of it."""
