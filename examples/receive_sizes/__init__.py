"""A loop hook of one's own, from its C source to Python: see receive_sizes.bpf.c and __main__.py."""
