"""Components in MongoDB, all or nothing without transactions."""
