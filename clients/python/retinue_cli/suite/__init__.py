"""The services as processes on this machine: what they are, and how `retinue up` keeps them running."""
