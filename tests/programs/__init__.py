"""Real, unmodified programs on the loop: real servers, real clients, bytes compared."""
