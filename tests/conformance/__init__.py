"""The runner of tests that are not ours: CPython's `test.test_asyncio` and uvloop's own suite, with another loop under
them, and aiofiles' own suite with other files."""
