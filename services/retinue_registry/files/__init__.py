"""The files of components: found, read with their line numbers, and checked."""
