#!/usr/bin/env bash
# Installs the Debian packages that this checkout needs and that the machine lacks, and says which and why.
# Called by the Makefile before anything else: `setup-machine.sh build` for `make build` and `make demo`,
# `setup-machine.sh test` for everything that `make test` runs but the virtual machine, `setup-machine.sh vm` for that, `setup-machine.sh bench` for
# `make bench`. It calls apt-get and nothing else of ours.
# What is there already is found by looking for the program or file itself, whoever installed it, so that a machine
# whose Python or PostgreSQL did not come from Debian is left as it is.
set -euo pipefail

PYTHON=${PYTHON:-python3}
purpose=${1:-test}
case $purpose in
    build | test | vm | bench) ;;
    *) echo "usage: $0 build|test|vm|bench" >&2; exit 2 ;;
esac

packages=()
reasons=()
need() { # need PACKAGE "what it is for"
    packages+=("$1")
    reasons+=("$1 ($2)")
}

has() { command -v "$1" >/dev/null 2>&1; }
python_has() { "$PYTHON" -c "import $1" >/dev/null 2>&1; }
python_header() { "$PYTHON" -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' >/dev/null 2>&1; }

# PostgreSQL's server programs lie outside PATH on Debian; pg_config and the versioned folder are the two places to look.
has_postgres() {
    has postgres || { has pg_config && [ -x "$(pg_config --bindir)/postgres" ]; } ||
        compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null
}

openssl_compiles() { printf '#include <openssl/ssl.h>\nint main(void){return 0;}\n' | gcc -x c -o /dev/null - -lssl -lcrypto >/dev/null 2>&1; }
c_compiles() { printf '#include <stdint.h>\nint main(void){return 0;}\n' | gcc -x c -o /dev/null - >/dev/null 2>&1; }

find_missing() {
    packages=()
    reasons=()
    has "$PYTHON" || need python3 "the interpreter"
    if ! has gcc; then need gcc "builds the extension"; fi
    if ! has gcc || ! c_compiles; then need libc6-dev "the C library's headers"; fi
    # Debian splits venv and the headers off its interpreter; `python3-venv` brings ensurepip.
    if ! python_has ensurepip || ! python_has venv; then need python3-venv "makes .venv"; fi
    python_header || need python3-dev "Python.h"
    [ -e /etc/ssl/certs/ca-certificates.crt ] || need ca-certificates "pip checks its index by it"
    case $purpose in
        test) find_missing_for_tests ;;
        vm) find_missing_for_vm ;;
        bench) find_missing_for_benchmarks ;;
    esac
}

find_missing_for_vm() {
    # Debian 12's brings virtiofsd along, by which the virtual machine sees this machine's files.
    { has qemu-system-x86_64 && [ -x /usr/lib/qemu/virtiofsd ]; } || need qemu-system-x86 "boots a kernel with the loop hook, for tests"
    has zstd || need zstd "unpacks that kernel"
    has mmdebstrap || need mmdebstrap "makes the root in which the kernel module is built"
    has patch || need patch "changes the source of a kernel, for make vm-kernel"
    has unshare || need util-linux "keeps that root's mounts apart"
    has mount || need mount "mounts what a compiler needs into it"
}

find_missing_for_benchmarks() {
    # Debian's nginx and haproxy lie in /usr/sbin, which is not on every user's PATH.
    PATH=$PATH:/usr/sbin has nginx || need nginx-light "files: what ours is compared with"
    PATH=$PATH:/usr/sbin has haproxy || need haproxy "relaying: what ours is compared with"
    openssl_compiles || need libssl-dev "builds the load of the TLS rows"
    has openssl || need openssl "makes their certificate"
    has taskset || need util-linux "puts the server and the load on a core each"
}

find_missing_for_tests() {
    has_postgres || need postgresql "the asyncpg programs start a server of their own"
    has redis-server || need redis-server "the redis-py programs start a server of their own"
    has curl || need curl "fetches from the TLS servers in tests"
    has openssl || need openssl "s_client talks to the TLS servers in tests"
    has strace || need strace "tests count the system calls of a turn"
    has mount || need mount "a test covers a sysctl in a mount namespace of its own"
    has ps || need procps "tests look at child processes"
    has setpriv || need util-linux "PostgreSQL refuses to run as root"
    has git || need git "tests look at what the checkout would ship"
    compgen -c clang | grep -qE '^clang(-[0-9]+)?$' || need clang "compiles the hooks for the kernel"
    # Debian keeps CPython's own tests in a package of their own; other builds of Python bring them along.
    if has "$PYTHON" && ! python_has test.test_asyncio; then
        need "libpython$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-testsuite" "CPython's own asyncio tests"
    fi
}

find_missing
[ ${#packages[@]} -gt 0 ] || exit 0

if ! has apt-get; then
    printf 'setup-machine: this machine lacks, under their Debian names:\n' >&2
    printf '  %s\n' "${reasons[@]}" >&2
    echo "setup-machine: there is no apt-get here; install them by the system's own means, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    printf 'setup-machine: this machine lacks:\n' >&2
    printf '  %s\n' "${reasons[@]}" >&2
    echo "setup-machine: only root can install them. Run this, then run make again:" >&2
    echo "    sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}" >&2
    exit 1
fi

cd "$(dirname "$0")/.."
mkdir -p .cache
updated=
# A bare machine has no Python to ask which of Python's parts are missing, so that a second round can follow the first.
for round in 1 2; do
    printf 'setup-machine: installing with apt-get:\n'
    printf '  %s\n' "${reasons[@]}"
    if [ -z "$updated" ]; then
        apt-get update -qq
        updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >.cache/apt.log 2>&1 || {
        cat .cache/apt.log >&2
        echo "setup-machine: apt-get could not install: ${packages[*]}" >&2
        exit 1
    }
    find_missing
    [ ${#packages[@]} -gt 0 ] || exit 0
    [ "$round" = 1 ] || break
done
printf 'setup-machine: still missing after apt-get installed them (does %s come from Debian?):\n' "$PYTHON" >&2
printf '  %s\n' "${reasons[@]}" >&2
exit 1
