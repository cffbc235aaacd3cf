"""Unit tests of what all services share."""
