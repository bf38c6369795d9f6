#!/usr/bin/env bash
# Builds kernel/'s module for the kernel that setup-kernel.sh unpacked into FOLDER, against Debian's headers, and prints where it is. Called by
# tests/vm/lane.py as `build-module.sh FOLDER`. What was built from the same sources for the same kernel is used again.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../..")
folder=$(cd "${1:?usage: build-module.sh FOLDER}" && pwd)
version=$(cat "$folder/version")
sources=("$checkout"/kernel/{Kbuild,aiouring_bpf.c,core.c,core.h} "$checkout/bpf_progs/include/aiouring/op_abi.h")

hash=$({ echo "$version"; cat "${sources[@]}"; } | sha256sum | cut -c1-16)
built=$folder/module-$hash
# One at a time; who comes second finds what the first has built.
exec 9>"$folder/lock"
flock 9
if [ ! -e "$built/aiouring_bpf.ko" ]; then
    "$here/setup-root.sh" "$folder"
    # Not today's: a guest may be about to load it.
    find "$folder" -maxdepth 1 -name "module-*" -mmin +1440 -exec rm -rf {} +
    rm -rf "$built.part"
    mkdir -p "$built.part"
    cp "${sources[@]}" "$built.part"
    echo "build-module: building the module for Linux $version" >&2
    "$here/in-root.sh" "$folder/root" "$built.part=/build/module" -- \
        make -s -C "/usr/src/linux-headers-$version" M=/build/module modules >"$folder/module.log" 2>&1 || {
        cat "$folder/module.log" >&2
        exit 1
    }
    grep -i warning "$folder/module.log" >&2 || true
    mv "$built.part" "$built"
fi
echo "$built/aiouring_bpf.ko"
