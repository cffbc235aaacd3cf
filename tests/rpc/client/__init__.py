"""The client against a real engine."""
