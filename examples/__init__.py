"""Programs to read and to start: each is one file, runs by itself, and says in its head what it shows."""
