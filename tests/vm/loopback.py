"""Brings the loopback interface up, for a system that has neither `ip` nor `ifconfig`. Called by guest-init.sh in the virtual machine."""

import fcntl
import socket
import struct

SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

with socket.socket(type=socket.SOCK_DGRAM) as sock:
    request = struct.pack("16sH22x", b"lo", 0)
    (flags,) = struct.unpack("16xH22x", fcntl.ioctl(sock, SIOCGIFFLAGS, request))
    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | IFF_UP))
