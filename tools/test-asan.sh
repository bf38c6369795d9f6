#!/usr/bin/env bash
# Runs the whole of the unit tests twice, side by side, since one would leave a core idle: under Python's debug allocator and -X dev, and, in two
# parts, with the extension modules built with the address sanitizer. Called by `make test-asan` as
# `test-asan.sh RESULTS_PREFIX [PYTEST_ARGUMENT...]`; with an argument for pytest there are no parts.
#
# The sanitizer's build lives in a copy of the checkout, so that neither build ever sees the other's extension modules, and its
# tests run in that copy: every child that a test starts imports the sanitized modules too.
set -euo pipefail

results=$(realpath -m "$1")
shift
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
copy=$PWD/.cache/asan/checkout
reports=$PWD/.cache/asan/reports
status=0

echo "test-asan: the unit tests with PYTHONMALLOC=debug and -X dev, whose output comes at the end"
PYTHONMALLOC=debug "$python" -X dev -m pytest tests/unit --junitxml="$results-debug.xml" --timeout=300 -o cache_dir=.cache/pytest-debug "$@" >"$results-debug.log" 2>&1 &
debug_run=$!
trap 'kill "$debug_run" 2>/dev/null || true' EXIT

runtime=$(gcc -print-file-name=libasan.so)
[ "$runtime" != libasan.so ] || { echo "test-asan: gcc has no libasan; Debian's package libgcc-N-dev brings it" >&2; exit 1; }
# The linker script or link that gcc names is not always what the dynamic loader can take; its target is.
runtime=$(realpath "$runtime")

echo "test-asan: building with -fsanitize=address in .cache/asan"
"$python" tools/copy_checkout.py "$copy"
(cd "$copy" && AIOURING_CFLAGS="-fsanitize=address -fno-omit-frame-pointer -g -O1" "$python" setup.py --quiet build_ext --inplace --build-temp ../build)
for module in "$copy"/aiouring/*.so; do
    # Without this the lane would pass just as well on modules that nobody instrumented.
    # grep reads to the end: under pipefail, a reader that leaves early would make nm fail.
    nm -D "$module" | grep __asan_ >/dev/null || { echo "test-asan: $module is not instrumented" >&2; exit 1; }
done

# PYTHONMALLOC=malloc sends each allocation to the sanitizer, which Python's own allocator would hide from it.
export PYTHONMALLOC=malloc PYTHONPATH="$copy"
under_sanitizer() { # under_sanitizer DETECT_LEAKS REPORTS COMMAND...
    local detect_leaks=$1 folder=$2
    shift 2
    rm -rf "$folder"
    mkdir -p "$folder"
    # Errors go to files as well as ending the process: a child's death alone could be what a test expects. A leak ends nothing, or
    # the tests of a child's exit status would see it (exitcode, which memory errors would share, hence abort_on_error);
    # asan_reports.py finds it in the files. SIGSEGV is left alone: some tests look at how a child ends by it.
    ASAN_OPTIONS="detect_leaks=$detect_leaks:detect_stack_use_after_return=1:abort_on_error=1:handle_segv=0:log_path=$folder/asan" \
        LSAN_OPTIONS="exitcode=0" LD_PRELOAD="$runtime" "$@"
}

# Leak detection stops the process's threads by ptrace, which some containers refuse; a leak on purpose shows whether it works here.
detect_leaks=1
under_sanitizer 1 "$reports-canary" "$python" -c '
import ctypes
allocate = ctypes.CDLL(None).malloc
allocate.restype = ctypes.c_void_p
allocate(4321)' || true
if ! grep -qs "leak of 4321 byte" "$reports-canary"/*; then
    echo "test-asan: leaks cannot be detected on this machine (ptrace refused?); memory errors still are"
    detect_leaks=0
fi

echo "test-asan: the unit tests with the address sanitizer"
(
    cd "$copy"
    tests=("$python" -m pytest tests/unit --timeout=600)
    if [ $# = 0 ]; then
        under_sanitizer $detect_leaks "$reports" "$python" tools/test_parts.py 2 "$results-address" "${tests[@]}"
    else
        under_sanitizer $detect_leaks "$reports" "${tests[@]}" --junitxml="$results-address.xml" "$@"
    fi
) || status=1
debug_status=0
wait "$debug_run" || debug_status=$?
trap - EXIT
sed 's/^/debug allocator: /' "$results-debug.log"
[ "$debug_status" -eq 0 ] || status=1
env --unset=PYTHONMALLOC --unset=PYTHONPATH "$python" tools/asan_reports.py "$reports" || status=1
exit $status
