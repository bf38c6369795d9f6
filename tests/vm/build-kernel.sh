#!/usr/bin/env bash
# Builds a small kernel with IORING_OP_BPF for the virtual machine and prints where it is: Debian's source of the kernel that setup-kernel.sh unpacked
# into FOLDER, kernel/'s patch and core, and kernel/guest.config. Called by `make vm-kernel` as `build-kernel.sh FOLDER`. The first build takes about
# twelve minutes on two cores and 4 GB, one after a change of the patch or the core about one; what was built from the same files is used again.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
checkout=$(readlink -f "$here/../..")
folder=$(cd "${1:?usage: build-kernel.sh FOLDER}" && pwd)
suite=${VM_SUITE:-trixie-backports}
version=$(cat "$folder/version")
series=$(echo "$version" | cut -d. -f1,2)
patch=$checkout/kernel/0001-io_uring-BPF-operations.patch
core=("$checkout"/kernel/{core.c,core.h} "$checkout/bpf_progs/include/aiouring/op_abi.h")
configuration=$checkout/kernel/guest.config
tree=$folder/linux

hash=$({ echo "$version"; cat "$patch" "${core[@]}" "$configuration"; } | sha256sum | cut -c1-16)
built=$folder/opcode-$hash
# One at a time; who comes second finds what the first has built.
exec 9>"$folder/lock"
flock 9
if [ -e "$built/vmlinux" ]; then
    echo "$built/vmlinux"
    exit
fi

fail() {
    echo "build-kernel: $*" >&2
    exit 1
}

"$here/setup-root.sh" "$folder"
if [ ! -e "$tree/Makefile" ]; then
    # shellcheck disable=SC2016  # apt-get's own variable
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | sort -u | sed -n 1p) || true
    [ -n "$mirror" ] || fail "apt's sources name no mirror of Debian"
    apt=$folder/source
    rm -rf "$apt" "$tree.part"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$tree.part"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$apt/sources.list"
    aside=(-qq -oAPT::Sandbox::User=root "-oDir::Etc::sourcelist=$apt/sources.list" -oDir::Etc::sourceparts=/dev/null
        "-oDir::State::Lists=$apt/lists" "-oDir::Cache=$apt/cache" -oAcquire::Languages=none)
    echo "build-kernel: downloading linux-source-$series" >&2
    apt-get "${aside[@]}" update
    (cd "$apt" && apt-get "${aside[@]}" download "linux-source-$series" && dpkg-deb -x ./linux-source-*.deb .)
    echo "build-kernel: unpacking it" >&2
    tar -xf "$apt/usr/src/linux-source-$series.tar.xz" -C "$tree.part" --strip-components=1
    rm -rf "$apt"
    mv "$tree.part" "$tree"
fi
[ "$(grep -E '^(VERSION|PATCHLEVEL|SUBLEVEL) =' "$tree/Makefile" | awk '{print $3}' | paste -sd.)" = "${version%%+*}" ] ||
    fail "the source is not that of Linux $version; remove $tree and, if Debian has a newer kernel, all of $folder"

# What was patched before is undone first, so that files that did not change keep their times and are not compiled again.
if ! cmp -s "$patch" "$tree/.applied.patch"; then
    [ ! -e "$tree/.applied.patch" ] || patch -s -R -d "$tree" -p1 <"$tree/.applied.patch" ||
        fail "what was patched before cannot be undone; remove $tree to begin with an untouched source"
    rm -f "$tree/.applied.patch"
    patch -s -d "$tree" -p1 <"$patch" || fail "the patch does not apply; remove $tree to begin with an untouched source"
    cp "$patch" "$tree/.applied.patch"
fi
put() { # put FILE AS
    sed 's/"op_abi\.h"/"bpf-op-abi.h"/' "$1" >"$tree/.put"
    cmp -s "$tree/.put" "$tree/io_uring/$2" || cp "$tree/.put" "$tree/io_uring/$2"
}
put "${core[0]}" bpf-op-core.c
put "${core[1]}" bpf-op-core.h
put "${core[2]}" bpf-op-abi.h
cp "$configuration" "$tree/.guest.config"

echo "build-kernel: building Linux ${version%%+*} with the patch; the first time takes about twelve minutes" >&2
# shellcheck disable=SC2016  # the inner shell's
"$here/in-root.sh" "$folder/root" "$tree=/build/linux" -- bash -euc '
    cd /build/linux
    export KBUILD_BUILD_USER=aiouring KBUILD_BUILD_HOST=aiouring KBUILD_BUILD_TIMESTAMP=0
    if ! cmp -s .guest.config .built.config; then
        make -s tinyconfig
        scripts/kconfig/merge_config.sh -m .config .guest.config >/dev/null
        make -s olddefconfig
        grep -q "^CONFIG_IO_URING_BPF_OPS=y" .config || { echo "CONFIG_IO_URING_BPF_OPS cannot be had with this configuration"; exit 1; }
        cp .guest.config .built.config
    fi
    nice make -s -j"$(nproc)" vmlinux
    strip -o vmlinux.stripped vmlinux
' >"$folder/kernel.log" 2>&1 || {
    tail -n 40 "$folder/kernel.log" >&2
    fail "the kernel was not built"
}
# Not today's: a guest may be about to boot it.
find "$folder" -maxdepth 1 -name "opcode-*" -mmin +1440 -exec rm -rf {} +
mkdir -p "$built"
cp "$configuration" "$built/config"
echo "${version%%+*} with IORING_OP_BPF" >"$built/version"
mv "$tree/vmlinux.stripped" "$built/vmlinux"
echo "$built/vmlinux"
