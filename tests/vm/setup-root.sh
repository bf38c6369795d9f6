#!/usr/bin/env bash
# Makes a Debian root in FOLDER/root in which the module and the kernel are built: the compiler that Debian's kernel was made with, and the headers of
# the kernel that setup-kernel.sh unpacked into FOLDER. Called by build-module.sh and build-kernel.sh as `setup-root.sh FOLDER`; does nothing where the
# root is there. It needs root and mmdebstrap, and takes about two minutes and 500 MB. What runs in it is called through in-root.sh.
set -euo pipefail

folder=$(cd "${1:?usage: setup-root.sh FOLDER}" && pwd)
version=$(cat "$folder/version")
root=$folder/root
[ ! -e "$folder/root-of-$version" ] || exit 0

fail() {
    echo "setup-root: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "only root can make a root file system and enter it"
command -v mmdebstrap >/dev/null 2>&1 || fail "there is no mmdebstrap (Debian's package of that name)"
# shellcheck disable=SC2016  # apt-get's own variable
mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -E '/debian/?$' | sort -u | sed -n 1p) || true
[ -n "$mirror" ] || fail "apt's sources name no mirror of Debian"

packages=gcc-14,make,patch,linux-headers-$version,flex,bison,bc,libelf-dev,libssl-dev,dwarves,cpio,xz-utils
rm -rf --one-file-system "$root"
echo "setup-root: making a Debian root for building, with the headers of Linux $version" >&2
for suite in trixie trixie-backports; do
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$folder/root.list"
mmdebstrap --quiet --variant=minbase --mode=root --include="$packages" trixie "$root" "$folder/root.list" >"$folder/root.log" 2>&1 || {
    tail -n 20 "$folder/root.log" >&2
    fail "mmdebstrap failed. If Debian has a newer kernel by now, remove $folder to take that one"
}
ln -sf gcc-14 "$root/usr/bin/gcc"
rm -f "$folder"/root-of-*
touch "$folder/root-of-$version"
