"""The unit tests, one folder so that files on one room can share their helpers."""
