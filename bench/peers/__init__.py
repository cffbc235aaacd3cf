"""Other agent libraries doing the same agent run, each a small script in an environment of its own."""
