"""A ring for the loader's tests, made and entered by bare system calls: what attaches to it is seen without a loop around it."""

from __future__ import annotations

import ctypes
import os
import struct

SETUP, ENTER = 425, 426
SETUP_CQSIZE, SETUP_SINGLE_ISSUER, SETUP_DEFER_TASKRUN, SETUP_NO_SQARRAY = 1 << 3, 1 << 12, 1 << 13, 1 << 16
ENTER_GETEVENTS = 1
# As nop.bpf.c has them.
SQ_ENTRIES, CQ_ENTRIES = 64, 128

libc = ctypes.CDLL(None, use_errno=True)


def call(*arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    result: int = libc.syscall(*(ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class Ring:
    """`offsets` are what nop.bpf.c wants to know."""

    def __init__(self, flags: int = SETUP_DEFER_TASKRUN) -> None:
        params = ctypes.create_string_buffer(120)
        struct.pack_into("III", params, 0, 0, CQ_ENTRIES, SETUP_CQSIZE | SETUP_SINGLE_ISSUER | SETUP_NO_SQARRAY | flags)
        self.fd = call(SETUP, SQ_ENTRIES, params)
        _, sq_tail = struct.unpack_from("II", params, 40)
        cq_head, cq_tail, _, _, _, cqes = struct.unpack_from("IIIIII", params, 80)
        self.offsets = {"sq_tail_offset": sq_tail, "cq_head_offset": cq_head, "cq_tail_offset": cq_tail, "cqes_offset": cqes}

    def enter(self) -> int:
        """One enter that waits for nothing: whatever happens in it, a hook did."""
        return call(ENTER, self.fd, 0, 0, ENTER_GETEVENTS, None, 0)

    def close(self) -> None:
        os.close(self.fd)

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
