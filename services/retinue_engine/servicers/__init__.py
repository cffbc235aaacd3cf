"""The engine's services on the wire."""
