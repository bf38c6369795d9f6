"""What an exception shows of a refusal, from what verifiers and libbpf have said. (test_op_own.py has the verifier of this machine say it.)"""

from __future__ import annotations

import errno
import pickle

import pytest

from aiouring.bpf import HookRefused, OperationRefused, errors

BEGIN = """\
libbpf: prog 'aiouring_operation': BPF program load failed: Permission denied
libbpf: prog 'aiouring_operation': -- BEGIN PROG LOAD LOG --
arg#0 reference type('UNKNOWN ') size cannot be determined: -22
0: R1=ctx() R10=fp0
"""
END = """\
processed 1412 insns (limit 1000000) max_states_per_insn 4 total_states 98 peak_states 150 mark_read 0
-- END PROG LOAD LOG --
libbpf: prog 'aiouring_operation': failed to load: -13
libbpf: failed to load object 'mine'
"""
# Linux 6.18.
ACCESS = """\
; error = aiouring_load(op, chunk, 0, offset, bytes); @ mine.bpf.c:15
199: (b4) w8 = 32                     ; R8=32 refs=3,45
; chunk[byte * 1000 + aiouring_length(op,0)] = 32; @ mine.bpf.c:22
217: (18) r1 = 0xffffc9000148a000     ; R1=map_value(map=mine.bss,ks=4,vs=12488) refs=3,45
; return AIOURING_OP_FIELD(op, buffer_count); @ op.h:301
;  @ op.h:0
219: (0f) r1 += r2                    ; R1=map_value(map=mine.bss,ks=4,vs=12488,smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))
220: (73) *(u8 *)(r1 +200) = r8
R1 unbounded memory access, make sure to bounds check any such access
"""
ACCESS_DETAILS = [
    "mine.bpf.c:22: chunk[byte * 1000 + aiouring_length(op,0)] = 32;",
    "op.h:301: return AIOURING_OP_FIELD(op, buffer_count);",
    "217: (18) r1 = 0xffffc9000148a000 ; R1=map_value(map=mine.bss,ks=4,vs=12488) refs=3,45",
    "219: (0f) r1 += r2 ; R1=map_value(map=mine.bss,ks=4,vs=12488,smin=0,smax=umax=0xffffffff,var_off=(0x0; 0xffffffff))",
    "220: (73) *(u8 *)(r1 +200) = r8",
]
# Linux 6.1, which does not say in which file.
OLD = """\
; chunk[byte * 1000] = 32;
217: (18) r1 = 0xffffc9000148a000     ; R1_w=map_value(off=0,ks=4,vs=12488,imm=0)
from 218 to 219: R0=scalar() R1_w=map_value(off=0,ks=4,vs=12488,imm=0)
220: (73) *(u8 *)(r1 +200) = r8
R1 unbounded memory access, make sure to bounds check any such access
"""
LOOP = """\
; while (1) @ mine.bpf.c:7
5: (05) goto pc-1
infinite loop detected at insn 5
cur state: R0=1 R10=fp0
old state: R0=1 R10=fp0
"""
LEAK = """\
; AIOURING_EACH(index, bytes) @ mine.bpf.c:18
197: (85) call bpf_iter_num_new#64231         ; R0=scalar()
; int error = 0; @ mine.bpf.c:19
198: (b4) w8 = 0
; AIOURING_OP(mine, 1, 1) @ mine.bpf.c:36
378: (95) exit
Unreleased reference id=43 alloc_insn=197
BPF_EXIT instruction in main prog would lead to reference leak
"""


@pytest.mark.parametrize(
    ("log", "reason", "details"),
    [
        (BEGIN + ACCESS + END, "R1 unbounded memory access, make sure to bounds check any such access", ACCESS_DETAILS),
        # The log was longer than what is kept of it.
        (ACCESS + END, "R1 unbounded memory access, make sure to bounds check any such access", ACCESS_DETAILS),
        (
            BEGIN + OLD + END,
            "R1 unbounded memory access, make sure to bounds check any such access",
            [
                "chunk[byte * 1000] = 32;",
                "217: (18) r1 = 0xffffc9000148a000 ; R1_w=map_value(off=0,ks=4,vs=12488,imm=0)",
                "220: (73) *(u8 *)(r1 +200) = r8",
            ],
        ),
        (
            BEGIN + LOOP + END,
            "infinite loop detected at insn 5",
            [
                "mine.bpf.c:7: while (1)",
                "5: (05) goto pc-1",
                errors.HINTS[0][1],
            ],
        ),
        (
            BEGIN + LEAK + END,
            "BPF_EXIT instruction in main prog would lead to reference leak",
            [
                "mine.bpf.c:36: AIOURING_OP(mine, 1, 1)",
                "mine.bpf.c:18: AIOURING_EACH(index, bytes)",
                "197: (85) call bpf_iter_num_new#64231 ; R0=scalar()",
                "198: (b4) w8 = 0",
                "378: (95) exit",
                "Unreleased reference id=43 alloc_insn=197",
                "(a loop of the macros is left by `break`, and not by `return` or `goto`)",
            ],
        ),
        # libbpf alone.
        (
            "libbpf: struct_ops init_kern: struct uring_bpf_ops is not found in kernel BTF\nlibbpf: failed to load object 'mine'\n",
            "struct_ops init_kern: struct uring_bpf_ops is not found in kernel BTF",
            [],
        ),
        ("libbpf: prog 'x': BPF program load failed: Operation not permitted\nlibbpf: failed to load object 'x'\n", "", []),
        ("", "", []),
        (BEGIN + END, "arg#0 reference type('UNKNOWN ') size cannot be determined: -22", []),
        ("-- END PROG LOAD LOG --\n", "", []),
    ],
)  # fmt: skip
def test_the_text_shows_the_reason_and_where_it_is(log: str, reason: str, details: list[str]) -> None:
    refused = OperationRefused(errno.EACCES, "mine: the kernel refused the operation", "mine.run.bpf.o", log)
    assert refused.reason == reason
    assert refused.log == log
    first, *rest = str(refused).splitlines()
    assert first == f"[Errno 13] mine: the kernel refused the operation (Permission denied){': ' if reason else ''}{reason}: 'mine.run.bpf.o'"
    if details:
        details = [*details, f"(all {len(log.splitlines())} lines are the exception's `log`)"]
    assert rest == [f"    {line}" for line in details]
    assert (refused.errno, refused.filename) == (errno.EACCES, "mine.run.bpf.o")


def test_lines_of_registers_are_cut() -> None:
    refused = HookRefused(errno.EACCES, "refused", "x", f"{BEGIN}1: (0f) r1 += r2 ; R1={'x' * 5000}\nR1 is wrong\n{END}")
    assert max(map(len, str(refused).splitlines())) == 4 + 160 and refused.reason == "R1 is wrong"


def test_it_goes_to_another_process() -> None:
    refused = OperationRefused(errno.EACCES, "mine: the kernel refused the operation", "mine.run.bpf.o", BEGIN + ACCESS + END)
    copy = pickle.loads(pickle.dumps(refused))
    assert (type(copy), str(copy), copy.reason, copy.log) == (OperationRefused, str(refused), refused.reason, refused.log)
