#!/usr/bin/env bash
# Runs a command in the root that setup-root.sh made, with the folders SOURCE=TARGET bound into it: in-root.sh ROOT [SOURCE=TARGET]... -- COMMAND...
# The mounts are in a namespace of their own and end with the command.
set -euo pipefail

if [ -z "${IN_ROOT:-}" ]; then
    exec env IN_ROOT=1 unshare --mount --propagation private "$0" "$@"
fi
root=$1
shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    mkdir -p "$root/${1#*=}"
    mount --bind "${1%%=*}" "$root/${1#*=}"
    shift
done
shift
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root chroot "$root" "$@"
