"""The processes in which the code of custom workflows runs."""
