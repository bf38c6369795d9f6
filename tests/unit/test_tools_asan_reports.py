"""tools/asan_reports.py: a memory error always counts; a leak counts if one of our modules made the allocation, itself or through the C API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / "tools" / "asan_reports.py"

INTERPRETERS_LEAK = """
=================================================================
==12==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 1561 byte(s) in 2 object(s) allocated from:
    #0 0x7f0 in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x5a1 in _PyMem_RawMalloc Objects/obmalloc.c:99
    #2 0x5a2 in _PyUnicode_New Objects/unicodeobject.c:1412
    #3 0x5a3 in PyUnicode_InternFromString Objects/unicodeobject.c:14850
    #4 0x5a4 in add_methods Objects/typeobject.c:5900
    #5 0x5a5 in type_ready Objects/typeobject.c:6500
    #6 0x5a6 in _PyTypes_InitTypes Objects/object.c:1900
    #7 0x5a7 in pycore_init_types Python/pylifecycle.c:650
    #8 0x7f1 in __pyx_pw_3ring (/tmp/aiouring/_ring.cpython-311-x86_64-linux-gnu.so+0x41)

SUMMARY: AddressSanitizer: 1561 byte(s) leaked in 2 allocation(s).
"""

OUR_LEAK = """
Direct leak of 96 byte(s) in 1 object(s) allocated from:
    #0 0x7f0 in __interceptor_calloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:77
    #1 0x7f1 in __pyx_f_slots (/tmp/aiouring/_op.cpython-311-x86_64-linux-gnu.so+0x41)
    #2 0x5a1 in _PyEval_EvalFrameDefault Python/ceval.c:5381

SUMMARY: AddressSanitizer: 96 byte(s) leaked in 1 allocation(s).
"""

OUR_LOST_REFERENCE = """
Direct leak of 33 byte(s) in 1 object(s) allocated from:
    #0 0x7f0 in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x5a1 in PyBytes_FromStringAndSize Objects/bytesobject.c:95
    #2 0x7f1 in __pyx_f_receive aiouring/_stream.c:6965

SUMMARY: AddressSanitizer: 33 byte(s) leaked in 1 allocation(s).
"""

USE_AFTER_FREE = """
=================================================================
==31==ERROR: AddressSanitizer: heap-use-after-free on address 0x60 at pc 0x7f bp 0x7f sp 0x7f
READ of size 8 at 0x60 thread T0
    #0 0x7f1 in __pyx_f_dispatch (/tmp/aiouring/_op.cpython-311-x86_64-linux-gnu.so+0x99)

SUMMARY: AddressSanitizer: heap-use-after-free
"""


def judge(folder: Path, *reports: str) -> subprocess.CompletedProcess[str]:
    for number, report in enumerate(reports):
        (folder / f"asan.{number}").write_text(report)
    return subprocess.run([sys.executable, TOOL, folder], capture_output=True, text=True)


def test_nothing_found(tmp_path: Path) -> None:
    assert judge(tmp_path).returncode == 0


def test_what_the_interpreter_leaves_allocated_is_no_leak_of_ours(tmp_path: Path) -> None:
    done = judge(tmp_path, INTERPRETERS_LEAK)
    assert done.returncode == 0, done.stdout


def test_our_own_allocation_counts(tmp_path: Path) -> None:
    done = judge(tmp_path, INTERPRETERS_LEAK, OUR_LEAK)
    assert done.returncode == 1
    assert "96 byte(s)" in done.stdout
    assert "1561" not in done.stdout


def test_an_object_that_we_lost_counts(tmp_path: Path) -> None:
    done = judge(tmp_path, OUR_LOST_REFERENCE)
    assert done.returncode == 1
    assert "33 byte(s)" in done.stdout


def test_a_memory_error_counts(tmp_path: Path) -> None:
    done = judge(tmp_path, USE_AFTER_FREE)
    assert done.returncode == 1
    assert "heap-use-after-free" in done.stdout
