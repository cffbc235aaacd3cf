"""The host's services on the wire."""
