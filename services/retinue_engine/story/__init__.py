"""What a run tells: its journal, what follows from it, and those who watch."""
