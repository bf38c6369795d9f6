#!/bin/bash
# The first process of the virtual machine. Called by the kernel that run-vm.sh boots. The root is the host's, read-only; what is written goes to
# tmpfs or to the working folder. It runs the command that run-vm.sh left in /run/ctl, leaves its status there, and switches the machine off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
mkdir -p /run/ctl
mount -t virtiofs ctl /run/ctl || echo "guest-init: the control folder cannot be mounted" >/dev/console
# WORK and TMPFS_FOLDERS
# shellcheck disable=SC1091  # it exists in the guest alone
. /run/ctl/settings
for folder in $TMPFS_FOLDERS; do
    [ -d "$folder" ] && mount -t tmpfs tmp "$folder"
done
# Below a tmpfs the working folder's place has to be made; elsewhere it is there, read-only.
mkdir -p "$WORK" 2>/dev/null
mount -t virtiofs work "$WORK" || echo "guest-init: the working folder cannot be mounted" >/dev/console
# A bare system has neither `ip` nor `ifconfig`; the interpreter that runs the tests can do it with two calls.
ip link set lo up 2>/dev/null || "${PYTHON:-python3}" "$WORK/tests/vm/loopback.py"
ulimit -n 65536
ulimit -l unlimited
echo vm >/proc/sys/kernel/hostname
cd "$WORK" || exit 1
setsid /bin/bash /run/ctl/command </dev/null >/dev/vport0p1 2>&1
echo $? >/run/ctl/status
sync
echo o >/proc/sysrq-trigger
# The kernel panics when its first process ends; it switches off meanwhile.
sleep 60
