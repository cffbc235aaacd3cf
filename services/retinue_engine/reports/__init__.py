"""What a run used, and what went wrong in it, from its journal."""
