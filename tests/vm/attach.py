"""A process without privileges that attaches what another one loaded; run by test_libbpf.py as `attach.py OBJECT pinned FOLDER` or `attach.py OBJECT
inherited NAMES_AND_DESCRIPTORS`. It prints what happened as JSON."""

from __future__ import annotations

import json
import os
import sys

# A script's folder comes first among those where modules are looked for.
from rings import Ring  # type: ignore[import-not-found]

from aiouring.bpf import Object, kernel_support

source, way, how = sys.argv[1:]
with open(source, "rb") as file:
    image = file.read()

# The interpreter and the object may lie where only root may read, so that this comes after them. From here on this process is nobody.
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)

report: dict[str, object] = {"support": kernel_support()}
try:
    adopted = Object.from_pinned(how, image) if way == "pinned" else Object.from_descriptors(json.loads(how), image)
except OSError as error:
    report["error"] = f"{type(error).__name__} {error.errno}"
else:
    with Ring() as ring, adopted:
        report["number"] = adopted.ring_fd
        adopted.attach(ring.fd)
        report["enter"] = ring.enter()
        report.update({name: adopted.globals[name][0] for name in ("steps", "seen", "bad")})
        adopted.detach()
        report["steps_of_the_kernel"] = int.from_bytes(adopted.maps["counts"].lookup(bytes(4)) or b"", "little")
print(json.dumps(report))
