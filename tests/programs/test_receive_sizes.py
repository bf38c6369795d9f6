"""The example of a hook of one's own, from build-hook to what the running program says."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "examples" / "receive_sizes" / "receive_sizes.bpf.c"


def test_it_is_built_run_and_counts(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "aiouring", "build-hook", str(SOURCE), "--output", str(tmp_path), "--engine", "inline"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.receive_sizes", "--program", str(tmp_path / "receive_sizes.bpf.o"), "--port", "0", "--seconds", "1.5"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        assert server.stdout.readline().startswith("engine: inline")
        port = int(server.stdout.readline().split()[-1])
        with socket.create_connection(("127.0.0.1", port)) as client:
            for size in (1, 5, 5, 1000):
                client.sendall(bytes(size))
                left = size
                while left:
                    left -= len(client.recv(left))
        output = server.stdout.read()
    assert server.returncode == 0
    last = output.strip().splitlines()[-3:]
    assert last == ["         1 B and more: 1", "         4 B and more: 2", "       512 B and more: 1"]
