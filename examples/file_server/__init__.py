"""A static file server for production: HTTP/1.1 with ranges, conditions, listings, limits, an access log and a graceful end.

Shows: a Protocol whose common request costs one dict look-up and one write; loop.sendfile for large files; work that may block in threads;
       one timer for all time-outs; signals.
Run:   python -m examples.file_server            serves the current folder on http://127.0.0.1:8080/ (--help lists the options)
       python -m examples.file_server.demo       the same with counters on /-/stats and on the terminal; DEMO_SECONDS=5 checks itself and ends

| file | what is in it |
|---|---|
| `__main__.py`, `options.py`, `settings.py` | the program, its command line, and what the parts are told of it |
| `server.py` | sockets, connections, time-outs, the end |
| `connection.py` | one connection: requests in, answers out |
| `request.py`, `conditions.py`, `answers.py`, `clock.py` | HTTP: heads, conditions and ranges, answers, their date |
| `folder.py`, `listing.py`, `mime.py` | from an address to what stands behind it |
| `files.py` | all access to the folder |
| `cache.py` | what is kept in memory |
| `access_log.py`, `stats.py`, `trouble.py`, `writer.py` | what is told of it: log, counters, errors |
| `demo.py`, `check.py` | `make demo` |
"""
