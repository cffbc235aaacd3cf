"""The commands, a module for each group. A command imports what costs time when it runs, not before."""
