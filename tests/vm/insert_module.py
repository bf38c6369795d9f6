"""Loads a module of the kernel: `insert_module.py FILE`, in the virtual machine, where there is no kmod."""

from __future__ import annotations

import ctypes
import os
import sys

FINIT_MODULE = 313

if len(sys.argv) != 2:
    sys.exit(f"usage: {sys.argv[0]} FILE")
libc = ctypes.CDLL(None, use_errno=True)
with open(sys.argv[1], "rb") as file:
    if libc.syscall(ctypes.c_long(FINIT_MODULE), ctypes.c_long(file.fileno()), b"", ctypes.c_long(0)) != 0:
        sys.exit(f"insert_module: {sys.argv[1]}: {os.strerror(ctypes.get_errno())}; the kernel's log says why")
