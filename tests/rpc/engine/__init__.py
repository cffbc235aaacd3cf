"""The engine through real servers and real channels."""
