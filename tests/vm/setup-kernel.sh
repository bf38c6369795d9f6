#!/usr/bin/env bash
# Unpacks Debian's stock cloud kernel that has the loop hook into FOLDER: vmlinux, config and version. Nothing is installed, and apt's own state is left alone.
# Called by `make test-vm` as `setup-kernel.sh FOLDER`. Needs apt-get, zstd and python3. VM_SUITE names another release to take it from.
set -euo pipefail

folder=$(mkdir -p "${1:?usage: setup-kernel.sh FOLDER}" && cd "$1" && pwd)
suite=${VM_SUITE:-trixie-backports}
package=linux-image-cloud-amd64
cd "$folder"

fail() {
    echo "setup-kernel: $*" >&2
    exit 1
}

command -v apt-get >/dev/null 2>&1 || fail "the kernel for the virtual machine is a Debian package, and there is no apt-get here to fetch it"
# The mirror that this machine's apt takes Debian from already; grep reads to the end, since apt-get minds a closed pipe.
# shellcheck disable=SC2016  # apt-get's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | sort -u | sed -n 1p) || true
[ -n "$mirror" ] || fail "apt's sources name no mirror of Debian that has its kernels"

mkdir -p apt/lists/partial apt/cache/archives/partial
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >apt/sources.list
aside=(-qq -oAPT::Sandbox::User=root "-oDir::Etc::sourcelist=$folder/apt/sources.list" -oDir::Etc::sourceparts=/dev/null
    "-oDir::State::Lists=$folder/apt/lists" "-oDir::Cache=$folder/apt/cache" -oAcquire::Languages=none)
echo "setup-kernel: looking in $suite for $package"
apt-get "${aside[@]}" update
image=$(apt-cache "${aside[@]}" depends "$package" | awk '/Depends: linux-image-[0-9]/ && !found {found = $2} END {print found}')
[ -n "$image" ] || fail "$suite has no package $package"
echo "setup-kernel: downloading $image"
apt-get "${aside[@]}" download "${image/linux-image/linux-binary}" "${image/linux-image/linux-base}"
rm -rf unpacked
for archive in ./*.deb; do dpkg-deb -x "$archive" unpacked; done

find unpacked \( -name config -o -name 'config-*' \) -type f -exec cp {} config \;
for option in CONFIG_IO_URING_BPF_OPS CONFIG_VIRTIO_FS; do
    grep -q "^$option=y" config || fail "$image was built without $option"
done
# The kernel proper lies zstd-compressed behind a loader; QEMU starts the ELF file at once, which saves seconds under emulation.
# zstd complains about what follows the frame, so the result itself is what is looked at.
find unpacked -name 'vmlinuz*' -type f -exec cp {} vmlinuz \;
python3 -c 'import sys; data = open("vmlinuz", "rb").read(); sys.stdout.buffer.write(data[data.find(b"\x28\xb5\x2f\xfd"):])' |
    zstd -dcq >vmlinux.part 2>/dev/null || true
[ "$(head -c 4 vmlinux.part | tail -c 3)" = ELF ] || fail "no ELF file came out of $image's vmlinuz"
echo "${image#linux-image-}" >version
rm -rf apt unpacked vmlinuz ./*.deb
# Last, since make looks at this file alone.
mv vmlinux.part vmlinux
echo "setup-kernel: Linux $(cat version) is in ${folder#"$PWD"/}"
