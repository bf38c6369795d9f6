"""Ten thousand connections open, echo and close, several times over, and nothing is left behind.

The client is a process of its own, because a process may have 20,000 descriptors at most and both ends need 10,000.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from . import support

CONNECTIONS = 10_000
ROUNDS = 2
#: What a second, equal round may add to the resident memory when all connections are open: fragments, nothing for each connection.
GROWTH_BYTES = 8 << 20


@pytest.mark.parametrize("style", ["protocol", "streams"])
def test_ten_thousand_connections_leave_nothing_behind(style: str) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert limit >= CONNECTIONS + 200, f"a process may open {limit} files here; the test needs {CONNECTIONS + 200} (ulimit -Hn)"
    with support.python_server(support.APPS / "echo_server.py", style) as server:
        echo, control = server.wait_for_line("ready ").split()
        client = subprocess.run(
            [sys.executable, str(support.APPS / "echo_load.py"), "many", echo, control, str(CONNECTIONS), str(ROUNDS)],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert client.returncode == 0, client.stderr
        seen = json.loads(client.stdout)
    for state in [*seen["history"], *seen["at_the_top"]]:
        print(state)

    before, *after = seen["history"]
    for top in seen["at_the_top"]:
        assert top["connections"] == CONNECTIONS
        assert top["descriptors"] >= before["descriptors"] + CONNECTIONS
    for state in after:
        assert state["connections"] == 0
        assert state["descriptors"] == before["descriptors"], "descriptors leaked"
        if support.LOOP == "aiouring":
            for counter in ("slots_in_use", "buffers_free"):
                assert state["ring"][counter] == before["ring"][counter], f"{counter} did not come back"
    # At the top, not at the end: how much the allocator gives back to the kernel when all is over is chance.
    tops = [top["resident_bytes"] for top in seen["at_the_top"]]
    assert tops[-1] - tops[0] < GROWTH_BYTES, f"memory grows with each round: {tops}"
