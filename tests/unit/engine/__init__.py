"""Parts of the engine alone."""
