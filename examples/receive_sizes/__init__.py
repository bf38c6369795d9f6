"""A loop hook of one's own, from its C source to Python: an echo server that counts how large the pieces are that it receives.

Shows: a hook program (receive_sizes.bpf.c), build-hook, Hook.load, and counters that a program keeps without waking Python.
Run:   python -m aiouring build-hook examples/receive_sizes/receive_sizes.bpf.c
       python -m examples.receive_sizes          (--port chooses another port)
"""
