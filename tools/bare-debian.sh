#!/usr/bin/env bash
# Makes a bare Debian root in .cache, puts a clone of this checkout's last commit into it and runs a command there: the proof that
# the project's own files install all that they need. By default: `make demo` for five seconds, then `make test`.
#     tools/bare-debian.sh [COMMAND]
# BARE_DEBIAN_SUITE names another release than bookworm; BARE_DEBIAN_KEEP=1 keeps the root for the next run.
# It needs root, and takes from this machine only what says where packages come from: the settings of apt and pip, the name
# resolution and the certificates. All mounts are in a namespace of their own, so none outlives the script.
set -euo pipefail

if [ "$(id -u)" != 0 ]; then
    echo "bare-debian: only root can make a root file system and enter it" >&2
    exit 1
fi
if [ "${1:-}" != --inside-namespace ]; then
    exec unshare --mount --propagation private -- "$0" --inside-namespace "$@"
fi
shift

suite=${BARE_DEBIAN_SUITE:-bookworm}
default='set -e; DEMO_SECONDS=5 make demo; make test'
command=${1:-$default}

cd "$(dirname "$0")/.."
checkout=$PWD
root=$checkout/.cache/bare-debian/$suite
mkdir -p "$checkout/.cache/bare-debian"

if ! command -v mmdebstrap >/dev/null 2>&1; then
    echo "bare-debian: installing mmdebstrap with apt-get"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends mmdebstrap >"$checkout/.cache/apt.log" 2>&1
fi

mounted=()
clean_up() {
    local status=$?
    local place
    trap - EXIT
    # In the reverse of the order in which they were mounted.
    for place in $(printf '%s\n' "${mounted[@]:-}" | tac); do
        umount --recursive --lazy "$place" || status=1
    done
    # Never remove a tree into which something of this machine is still mounted.
    if [ -z "${BARE_DEBIAN_KEEP:-}" ] && ! grep -q " $root/" /proc/self/mountinfo; then
        rm -rf --one-file-system "$root"
    fi
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ ! -e "$root/etc/debian_version" ]; then
    echo "bare-debian: making a bare $suite in .cache/bare-debian/$suite"
    rm -rf --one-file-system "$root"
    # The machine's own sources of that release, if it has them; else Debian's default ones.
    sources=()
    for list in /etc/apt/sources.list.d/*.sources; do
        if grep -qE "^Suites: .*\b$suite\b" "$list" 2>/dev/null; then sources+=("$list"); fi
    done
    mmdebstrap --quiet --mode=root --variant=apt "$suite" "$root" "${sources[@]}"
fi

# Where packages come from, and how names and certificates are found: a fresh machine on this network has the same.
for setting in /etc/resolv.conf /etc/hosts /etc/pip.conf "$HOME/.config/pip/pip.conf" "$HOME/.pip/pip.conf"; do
    [ -e "$setting" ] || continue
    target=$setting
    case $setting in "$HOME"/*) target=/root/${setting#"$HOME"/} ;; esac
    mkdir -p "$root$(dirname "$target")"
    cp --dereference "$setting" "$root$target"
done
for setting in /etc/apt/apt.conf.d/*; do
    # Settings that call programs belong to packages that the bare machine lacks.
    if ! grep -qE '(Invoke|Pre-Install-Pkgs|^#clear)' "$setting"; then cp "$setting" "$root/etc/apt/apt.conf.d/"; fi
done
certificates=/etc/ssl/certs/ca-certificates.crt
if [ -e "$certificates" ]; then
    mkdir -p "$root/etc/ssl/certs"
    cp --dereference "$certificates" "$root$certificates"
    # Debian's package would write the file anew and lose the certificates that only this network has.
    if [ -d /usr/local/share/ca-certificates ]; then
        mkdir -p "$root/usr/local/share/ca-certificates"
        cp -a /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
    fi
fi

mount_into() { # mount_into PLACE ARGUMENT...
    local place=$root$1
    shift
    mkdir -p "$place"
    mount "$@" "$place"
    mounted+=("$place")
}
# The new root must be a mount point of its own, or nothing inside it could make a mount namespace.
mount_into "" --bind "$root"
mount_into /proc --types proc proc
mount_into /sys --rbind /sys
mount_into /dev --rbind /dev
mount_into /tmp --types tmpfs tmpfs
# Folders of packages that pip's settings name on this machine. The pages of an index in a folder `simple` link to files beside it.
pip=$(command -v pip3 || command -v pip || true)
if [ -n "$pip" ]; then
    while read -r folder; do
        [ -d "$folder" ] && mount_into "$folder" --bind --options ro "$folder"
    done < <("$pip" config list 2>/dev/null | grep -E 'find-links|index-url' | grep -oE "(file://)?/[^'\" ]+" | grep -vE '^//' | sed -E 's#^file://##; s#/simple/?$##' | sort -u)
fi

rm -rf "$root/root/checkout"
git clone --quiet --no-hardlinks "$checkout" "$root/root/checkout"
if [ -n "$(git status --porcelain)" ]; then
    echo "bare-debian: note that uncommitted changes are left out"
fi

# Of the environment, only what package clients read.
kept=()
while IFS= read -r setting; do kept+=("$setting"); done < <(env | grep -E '^(PIP_|SSL_CERT|REQUESTS_CA|CURL_CA|GIT_SSL|https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY)' || true)

echo "bare-debian: $(cat "$root/etc/debian_version"): installing make, as a person would, then: $command"
chroot "$root" /usr/bin/env --ignore-environment "${kept[@]}" \
    HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM="${TERM:-dumb}" \
    DEBIAN_FRONTEND=noninteractive /bin/bash -ec "
        apt-get update -qq && apt-get install -y -qq --no-install-recommends make git >/tmp/apt.log 2>&1 || { cat /tmp/apt.log; exit 1; }
        cd /root/checkout
        $command"
