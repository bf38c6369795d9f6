"""The lane that boots a kernel with the loop hook, `python -m tests.vm`, and the tests that need one."""
