"""Nothing that Python code uses. The docstrings are in _chainfile.pyx."""
