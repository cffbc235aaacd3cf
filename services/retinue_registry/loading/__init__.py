"""What files change: planned, stored, and watched."""
