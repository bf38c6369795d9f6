"""What the user has of a chain: the calls that add links, the block, the await. Once per link and chain.

Public as aiouring.Chain. Calls `_chain`, which owns the requests, `_chainlinks`, which makes the links, and `_awaitable`.

Who owns what: a Chain holds its ChainRun, which knows it without holding it. Links hold the ChainRun alone. So nothing of a chain waits for the
garbage collector.
"""

cimport cython
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint32_t

from aiouring._awaitable cimport AIOURING_RETURN, OVER, Awaitable
from aiouring._bpfop cimport OpCore
from aiouring._chain cimport ChainRun
from aiouring._chainlinks cimport LINK_READ, LINK_RECV, LINK_SEND, LINK_WRITE

import os

cdef int O_RDONLY = os.O_RDONLY


cdef enum block_end:
    ENTERED
    LEFT
    DROPPED


@cython.final
cdef class BlockStep(Awaitable):
    """What entering or leaving a chain's block awaits. It never waits."""

    cdef Chain chain
    cdef block_end end

    cdef int step(self, object value, PyObject **result) except -1:
        cdef object brought = self.chain if self.end == ENTERED else None
        if self.end == LEFT:
            self.chain._run.begin()
        elif self.end == DROPPED:
            self.chain._run.drop()
        Py_INCREF(brought)
        result[0] = <PyObject *>brought
        return AIOURING_RETURN

    cdef int give_up(self) except -1:
        return 0


cdef BlockStep block_step(Chain chain, block_end end):
    cdef BlockStep step = BlockStep.__new__(BlockStep)
    step.chain = chain
    step.end = end
    return step


@cython.no_gc_clear                         # its destructor tells the chain's run that it is gone
cdef class Chain:
    """Requests that run one after another, each only if the one before it did what it was asked for. Awaited as one.

        async with aiouring.Chain() as chain:
            data = chain.read(source, buffer, offset=0)
            chain.write(target, buffer, offset=0, length=data.result)
        read, written = await chain

    Leaving the block submits it; after an exception in the block nothing is submitted. `await chain` gives the list of the links' results: bytes
    that moved, an os.stat_result, or None. (Without a block, `await chain` submits it.)

    timeout: seconds for the whole chain, after which it is cancelled. TimeoutError is raised when nothing of it is in flight any more.

    A link that fails ends the chain, and ChainError says which it was, and why. It fails if its request does; and if it moved less than it was
    asked for, where that would be missed: a write or a send always, a read (or a recv(whole=True)) unless it is the last link; but not where a
    later link takes its result, nor a hard link. After a hard link (hard=True) the chain goes on whatever came of it.

    Files are descriptors, objects with fileno(), sockets of send() and recv(), and what open() returned. The same file is meant all the time: who
    closes it meanwhile closes it for himself; a socket's close ends the chain. Buffers are the chain's, as exports, until it is over.

    Without carried results all requests are linked in the kernel (IOSQE_IO_LINK), and go out with one io_uring_enter; up to 128. With them the
    loop's hook carries on from link to link, up to 16, and 256 such chains at a time; it is attached where there is none, as by aiouring.relay().
    docs/chains.md has the details. Kernel floor: Linux 6.1.

    Cancelling ends the link that is in flight, and those behind it do not run; CancelledError comes when it has ended. Raises when it is
    submitted: TypeError on another event loop, RuntimeError for a socket that a transport has or an operation of another loop, OSError (EBADF ...)
    for a file that is closed, (ENFILE) where there is no place for open(), (EBUSY) where 256 chains with carried results run.
    """

    cdef readonly ChainRun _run
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self.use(ChainRun.__new__(ChainRun))

    def __init__(self, *, timeout=None):
        if timeout is not None:
            try:
                self._run.limit(timeout)
            except BaseException:
                self._run.drop()            # there is no chain that somebody could have forgotten to await
                raise

    cdef int use(self, ChainRun run) except -1:
        self._run = run
        run.face = <void *>self
        return 0

    def __dealloc__(self):
        if self._run is not None and self._run.face == <void *>self:
            self._run.face = NULL

    @property
    def links(self):
        """Its links, in their order."""
        cdef uint32_t at
        return tuple([self._run.link_of(at) for at in range(self._run.count)])

    @property
    def outcomes(self):
        """For each link its result, or an OSError (ECANCELED: it did not run, or was ended); None before the chain is over. For who has to know
        how far a chain came that failed or was cancelled."""
        return self._run.outcome_list

    def __aenter__(self):
        return block_step(self, ENTERED)

    def __aexit__(self, kind, value, traceback):
        return block_step(self, LEFT if kind is None else DROPPED)

    def __await__(self):
        self._run.claim()
        return self._run

    def __repr__(self):
        cdef uint32_t at
        return f"<Chain {' → '.join([self._run.kind_name(at) for at in range(self._run.count)]) or 'without links'}>"

    # -- links -----------------------------------------------------------------------------------------------------------------------

    def open(self, path, int flags=O_RDONLY, uint32_t mode=0o777, *, dir_fd=None, bint hard=False):
        """os.open() for the later links of this chain: the file has a place in the ring's table and no descriptor. The chain's close() closes it, or
        its end, whatever comes. Result: None. A FIFO is opened without waiting for its other end."""
        return self._run.add_open(path, flags, mode, dir_fd, hard)

    def read(self, file, buffer, *, length=None, offset=None, bint hard=False):
        """Read into a writable buffer, up to its length or the first `length` bytes of it. offset: in the file, in bytes; None: at the file's own
        position, which moves, and what pipes want. Result: bytes, 0 at the end of the file. It waits for a pipe's bytes, also
        where the descriptor is O_NONBLOCK."""
        return self._run.add_move(LINK_READ, file, buffer, length, offset, False, hard)

    def write(self, file, buffer, *, length=None, offset=None, bint hard=False):
        """Write a buffer, or its first `length` bytes. offset: as of read(). Result: bytes."""
        return self._run.add_move(LINK_WRITE, file, buffer, length, offset, False, hard)

    def send(self, sock, buffer, *, length=None, bint hard=False):
        """Send a buffer, or its first `length` bytes, all of it (MSG_WAITALL). Result: bytes."""
        return self._run.add_move(LINK_SEND, sock, buffer, length, None, False, hard)

    def recv(self, sock, buffer, *, length=None, bint whole=False, bint hard=False):
        """Receive into a writable buffer what comes, up to its length or `length`. whole: wait until all of it is there (MSG_WAITALL). Result: bytes,
        0 at the end of the stream. What a cancelled sock_recv() had left comes first."""
        return self._run.add_move(LINK_RECV, sock, buffer, length, None, whole, hard)

    def fsync(self, file, *, bint data_only=False, bint hard=False):
        """os.fsync(), or with data_only os.fdatasync(). Result: None."""
        return self._run.add_fsync(file, data_only, hard)

    def close(self, file, *, bint hard=False):
        """Close what this chain opened, or a descriptor by its number, which must be nobody else's. Result: None."""
        return self._run.add_close(file, hard)

    def statx(self, path, *, dir_fd=None, bint follow_symlinks=True, bint hard=False):
        """os.stat() of a path or a descriptor. Result: os.stat_result."""
        return self._run.add_statx(path, dir_fd, follow_symlinks, hard)

    def bpf(self, OpCore op not None, *buffers, flags=0, length=None, bint hard=False):
        """A BPF operation (aiouring.bpf.Op), with the arguments of its call. Result: as of `await op(...)`; a later link can take it as its length or
        offset, where a number below 0 (find() without a match) fails with EINVAL. Engines opcode and module are requests as any other. The loop's
        inline hook runs inline operations itself, of up to 64 KiB in all; Python is woken for any other."""
        return self._run.add_bpf(op, buffers, flags, length, hard)

    def timeout(self, seconds, *, bint hard=False):
        """A pause before the next link. (A limit for the whole chain is Chain(timeout=).) Result: None."""
        return self._run.add_timer(seconds, hard)


def chain_of(ChainRun run not None):
    """For a link whose chain the user has let go of: what stands for it again."""
    cdef Chain chain = Chain.__new__(Chain)
    chain._run.state = OVER             # nobody awaits the one that it was born with
    chain.use(run)
    return chain
