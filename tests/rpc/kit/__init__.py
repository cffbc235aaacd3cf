"""The kit through real servers and processes."""
