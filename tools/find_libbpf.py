"""Finds a libbpf that can be linked into an extension module, or fetches one: called by tools/build_bpf.py, and by hand to see what it finds.

The kernel engine needs libbpf 1.4.6 or newer (older ones ignore `.struct_ops.link`), as an archive, with libelf and what that needs: the module
must run where none of them is installed. First comes the machine's own, by pkg-config. Where that is older or absent, as on Debian 12, Debian's
package from the release's backports, or of a later release, is downloaded from the mirror that apt uses already and unpacked into a folder of the
build; nothing is installed, and apt's own state is left alone. Each candidate must link, since an archive that was built for programs alone may not.
It needs nothing but Python's standard library.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

VERSION_MIN = "1.4.6"
ROOT = Path(__file__).resolve().parent.parent

# Where a Debian package may come from, best first; {release} is the machine's own. Its backports are made for its C library. A later release's
# archives may want a newer one: then they do not link here.
DEBIAN_SUITES = ["{release}-backports", "{release}", "trixie", "sid"]

# With --wrap and --exclude-libs, archives that were built for programs can be part of a shared object; see aiouring_libbpf.h.
LINK_ARGUMENTS = ["-Wl,--wrap=stderr", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"]

PROBE = """
#include "aiouring_libbpf.h"
int probe(const void *image, size_t size, char *log)
{
    struct bpf_object *object = bpf_object__open_mem(image, size, NULL);
    return object ? aiouring_bpf_load(object, &log) : (int)libbpf_major_version();
}
"""


@dataclass
class Libbpf:
    """Where it lies: the folder of `bpf/libbpf.h`, the archives in the order in which they are linked, and a word for the build's output."""

    include: Path
    archives: list[Path]
    origin: str


class Unavailable(Exception):
    """Why there is none, in one sentence."""


def output_of(*command: str | Path, cwd: Path | None = None) -> str | None:
    """What the command prints, or None if it fails or does not exist."""
    try:
        done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, stdin=subprocess.DEVNULL)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def compiler() -> list[str]:
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def why_it_does_not_link(found: Libbpf) -> str | None:
    """None if a shared object can be made of it, else the first thing that the linker says."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.c")
        source.write_text(PROBE)
        command = [*compiler(), "-shared", "-fPIC", "-O2", f"-I{found.include}", f"-I{ROOT / 'aiouring' / 'include'}", str(source)]
        command += [*map(str, found.archives), *LINK_ARGUMENTS, "-Wl,--no-undefined", "-o", str(Path(folder, "probe.so"))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            return None
        lines = done.stdout.strip().splitlines() or ["the compiler failed"]
        return next((line for line in lines if "error" in line or "undefined" in line or "relocation" in line), lines[0])


def of_the_machine() -> Libbpf:
    """The machine's own, by pkg-config."""
    if output_of("pkg-config", "--version") is None:
        raise Unavailable("there is no pkg-config")
    version = output_of("pkg-config", "--modversion", "libbpf")
    if version is None:
        raise Unavailable("pkg-config knows no libbpf")
    if output_of("pkg-config", f"--atleast-version={VERSION_MIN}", "libbpf") is None:
        raise Unavailable(f"the machine's libbpf is {version}")
    folder = output_of("pkg-config", "--variable=libdir", "libbpf") or ""
    libraries = (output_of("pkg-config", "--static", "--libs-only-l", "libbpf") or "").split()
    archives = []
    for name in dict.fromkeys(f"lib{library.removeprefix('-l')}.a" for library in libraries):
        path = Path(folder, name)
        if not path.exists():
            # The compiler gives the bare name back where it knows no such file.
            path = Path(output_of(*compiler(), f"-print-file-name={name}") or name)
        if not path.exists():
            raise Unavailable(f"the machine's libbpf {version} cannot be linked statically: there is no {name}")
        archives.append(path)
    return Libbpf(Path(output_of("pkg-config", "--variable=includedir", "libbpf") or ""), archives, f"libbpf {version} of this machine")


def debian_release() -> str:
    """The code name of the Debian that this is."""
    try:
        settings = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    except OSError:
        settings = {}
    release = settings.get("VERSION_CODENAME", "").strip('"')
    if settings.get("ID", "").strip('"') != "debian" or not release:
        raise Unavailable("this is no release of Debian, whose packages could be used")
    return release


def unpacked(folder: Path, origin: str) -> Libbpf:
    """What lies in a folder into which packages were unpacked."""
    archives = [path for name in ("libbpf.a", "libelf.a", "libz.a", "libzstd.a") for path in sorted(folder.glob(f"usr/lib/**/{name}"))[:1]]
    descriptions = sorted(folder.glob("usr/lib/**/libbpf.pc"))
    if len(archives) < 3 or not descriptions or not (folder / "usr/include/bpf/libbpf.h").exists():
        raise Unavailable(f"{origin} is incomplete")
    (version,) = re.findall(r"^Version: *([0-9.]+)", descriptions[0].read_text(), re.MULTILINE)
    if [int(part) for part in version.split(".")] < [int(part) for part in VERSION_MIN.split(".")]:
        raise Unavailable(f"{origin} is {version}")
    return Libbpf(folder / "usr/include", archives, origin)


def from_debian(folder: Path, suite: str, release: str) -> Libbpf:
    """Downloads Debian's packages of one suite and unpacks them into `folder`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("there is no apt-get that could fetch one")
    targets = output_of("apt-get", "indextargets", "--format", "$(REPO_URI)") or ""
    mirrors = sorted({uri for uri in targets.split() if uri.rstrip("/").endswith("/debian")})
    if not mirrors:
        raise Unavailable("apt's sources name no mirror of Debian")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "root"):
        (folder / name).mkdir(parents=True)
    # What libbpf is linked with comes from the release itself where that fits, hence both.
    suites = dict.fromkeys([release, suite] if suite.startswith(release) else [suite])
    key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text("".join(f"deb [{key}] {mirrors[0]} {name} main\n" for name in suites))
    options = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Acquire::Languages": "none",
        # Otherwise apt-get takes an index that it cannot fetch for an empty one.
        "APT::Update::Error-Mode": "any",
        "Acquire::http::Timeout": "20",
        # apt's own user cannot write into a folder of ours.
        "APT::Sandbox::User": "root",
    }
    aside = ["-qq", *(f"-o{name}={value}" for name, value in options.items())]
    if output_of("apt-get", *aside, "update") is None:
        raise Unavailable(f"apt-get could not read {suite}")
    # Newer ones of libelf want libzstd; an archive that nothing wants adds nothing.
    packages = [f"libbpf-dev/{suite}", "libelf-dev", "zlib1g-dev", "libzstd-dev"]
    if output_of("apt-get", *aside, "download", *packages, cwd=folder) is None:
        raise Unavailable(f"apt-get could not download {' '.join(packages)}")
    for package in folder.glob("*.deb"):
        if output_of("dpkg-deb", "-x", package, folder / "root") is None:
            raise Unavailable(f"dpkg-deb could not unpack {package.name}")
        package.unlink()
    shutil.rmtree(folder / "lists")
    shutil.rmtree(folder / "cache")
    return unpacked(folder / "root", f"Debian's libbpf from {suite}")


def candidates_from_debian(folder: Path) -> list[tuple[Path, str, str]]:
    """(folder, suite, release) of each suite that Debian's package may come from."""
    release = debian_release()
    suites = dict.fromkeys(suite.format(release=release) for suite in DEBIAN_SUITES)
    return [(folder / suite, suite, release) for suite in suites]


def find_libbpf(folder: Path) -> Libbpf:
    """A libbpf that links. What has to be downloaded is kept in `folder`, where the next build finds it. Raises Unavailable with all reasons."""
    reasons = []

    def links(found: Libbpf) -> bool:
        fault = why_it_does_not_link(found)
        if fault is not None:
            reasons.append(f"{found.origin} does not link ({fault})")
        return fault is None

    try:
        found = of_the_machine()
        if links(found):
            return found
    except Unavailable as error:
        reasons.append(str(error))
    try:
        for place, suite, release in candidates_from_debian(folder.resolve()):
            try:
                found = unpacked(place / "root", f"Debian's libbpf from {suite}, unpacked earlier")
            except Unavailable:
                print(f"libbpf: {reasons[0]}; unpacking Debian's from {suite} into {folder} (nothing is installed)", flush=True)
                try:
                    found = from_debian(place, suite, release)
                except Unavailable as error:
                    reasons.append(str(error))
                    continue
            if links(found):
                return found
    except Unavailable as error:
        reasons.append(str(error))
    raise Unavailable("; ".join(reasons))


if __name__ == "__main__":
    try:
        print(find_libbpf(Path(sys.argv[1])))
    except Unavailable as error:
        sys.exit(f"find_libbpf: {error}")
