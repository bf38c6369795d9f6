"""What runs inside a test child, under the Python being tested; it may import the standard library and the loop, nothing else of ours."""
