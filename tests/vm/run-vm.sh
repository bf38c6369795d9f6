#!/usr/bin/env bash
# Boots a kernel under software emulation with this machine's own root as its read-only root, runs one command there and gives back its output and status.
# Called by tests/vm/lane.py, and by hand: tests/vm/run-vm.sh -k .cache/vm/vmlinux -w . -t 120 -- 'uname -r'
#
#   -k KERNEL    the ELF file (setup-kernel.sh makes it)      -w FOLDER   working folder, at the same path and writable
#   -t SECONDS   the most that it may take (300)              -m MB       memory of the guest (2048)
#   -a WORDS     more for the kernel's command line
#
# /tmp, /var/tmp and /root/.cache are empty in the guest. Status: the command's; 124 when the time was over; 125 when the guest died; 126 when it
# could not be started. VM_VERBOSE=1 shows the guest's console. It needs root, for a file server that changes its root, and no KVM: that is of no
# use on a machine that is virtual itself and has no nested paging. Absolute times from such a guest mean nothing; counts are exact.
set -u

here=$(dirname "$(readlink -f "$0")")
kernel=
work=$PWD
memory_mb=2048
append=
limit_s=300
while getopts a:k:w:m:t: option; do
    case $option in
        a) append=$OPTARG ;;
        k) kernel=$OPTARG ;;
        w) work=$(readlink -f "$OPTARG") ;;
        m) memory_mb=$OPTARG ;;
        t) limit_s=$OPTARG ;;
        *) exit 126 ;;
    esac
done
shift $((OPTIND - 1))

refuse() {
    echo "run-vm: $*" >&2
    exit 126
}
[ -f "$kernel" ] || refuse "there is no kernel '$kernel'; tests/vm/setup-kernel.sh makes one"
[ "$(id -u)" = 0 ] || refuse "only root can share this machine's root with the guest"
virtiofsd=/usr/lib/qemu/virtiofsd
[ -x $virtiofsd ] || refuse "there is no $virtiofsd: Debian 12's qemu-system-common has it, later ones do not"

run=$(mktemp -d)
mkdir "$run/ctl"
children=()
# shellcheck disable=SC2329  # the trap calls it
clean_up() {
    local child
    for child in "${children[@]}"; do kill "$child" 2>/dev/null; done
    wait 2>/dev/null
    rm -rf "$run"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

devices=()
share() { # share TAG FOLDER CACHE
    $virtiofsd --socket-path="$run/$1.sock" -o source="$2" -o cache="$3" -o sandbox=chroot -o log_level=err -o xattr -o flock \
        >"$run/$1.log" 2>&1 &
    children+=($!)
    devices+=(-chardev "socket,id=chardev-$1,path=$run/$1.sock" -device "vhost-user-fs-pci,queue-size=1024,chardev=chardev-$1,tag=$1")
    local _
    for _ in $(seq 250); do
        [ -S "$run/$1.sock" ] && return
        sleep 0.02
    done
    cat "$run/$1.log" >&2
    refuse "the file server for $2 did not start"
}
printf 'WORK=%q\nTMPFS_FOLDERS=%q\nPYTHON=%q\n' "$work" "/tmp /var/tmp /root/.cache" "${PYTHON:-python3}" >"$run/ctl/settings"
if [ $# = 1 ]; then printf '%s\n' "$1"; else printf '%q ' "$@"; fi >"$run/ctl/command"
# The root does not change under the guest, or only what it does not read: cached for good. The control folder is not cached at all.
share rootfs / always
share ctl "$run/ctl" none
share work "$work" auto

# A guest that the host lets wait looks to its kernel like one that hangs. Tests that hang end by their own limits.
patience="nosoftlockup rcupdate.rcu_cpu_stall_suppress=1"

# In the background: a signal's trap waits for what runs in the foreground, and a guest would outlive who asked for it.
mkfifo "$run/output"
cat "$run/output" &
output=$!
timeout -k 5 "$limit_s" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -cpu max -smp 2 -m "$memory_mb" -nodefaults -no-user-config \
    -display none -no-reboot -object "memory-backend-memfd,id=mem,size=${memory_mb}M,share=on" -numa node,memdev=mem \
    -serial "file:$run/console.log" -device virtio-serial-pci -chardev file,id=out,path=/dev/stdout,append=on \
    -device virtserialport,chardev=out,name=out -kernel "$kernel" \
    -append "console=ttyS0 panic=-1 quiet rootfstype=virtiofs root=rootfs ro init=$here/guest-init.sh mitigations=off tsc=reliable cryptomgr.notests=1 $patience $append" \
    "${devices[@]}" </dev/null >"$run/output" &
guest=$!
children+=("$guest")
wait "$guest"
status=$?
wait "$output"

[ -z "${VM_VERBOSE:-}" ] || cat "$run/console.log" >&2
if [ "$status" = 124 ] || [ "$status" = 137 ]; then
    echo "run-vm: not finished after $limit_s s; the end of the guest's console:" >&2
    tail -n 20 "$run/console.log" >&2
    exit 124
fi
[ -f "$run/ctl/status" ] && exit "$(cat "$run/ctl/status")"
echo "run-vm: the guest died (QEMU's status: $status); the end of its console:" >&2
tail -n 40 "$run/console.log" >&2
exit 125
