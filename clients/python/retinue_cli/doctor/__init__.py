"""What `retinue doctor` looks at."""
