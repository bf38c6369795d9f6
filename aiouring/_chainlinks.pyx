"""What a chain consists of: its links, their memory, and the requests that they become.

Used by `_chain`, whose ChainRun submits them, and `_chaincalls`, which adds them. Calls `_chainfile`, `_fileop`, `_fsop`, `_bpfop`, `_loop`, `_prep`,
`_fsprep`.

A socket that a cancelled receive has left bytes for gives them to the chain's first receive, and gets back what that did not want.

Who owns what: see `_chain`. A link that cannot be made leaves nothing behind. A Link of the user's holds the chain, and the chain knows it without
holding it, so that both go without the garbage collector.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from libc.errno cimport EIO, ENOSYS
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from aiouring._awaitable cimport NEW
from aiouring._bpfop cimport BpfRequest, OpCore, new_bpf_request, whole_number
from aiouring._chainfile cimport ChainFile, SocketHold, put_files, take_files_out
from aiouring._fileop cimport REQUEST_BYTES_MAX, DescriptorView
from aiouring._fsop cimport encode_path, plain_path, stat_result
from aiouring._fsprep cimport prep_statx
from aiouring._lent cimport LentBuffer, lend
from aiouring._operation cimport Operation
from aiouring._prep cimport (
    prep_close,
    prep_close_direct,
    prep_fsync,
    prep_openat_direct,
    prep_read,
    prep_recv,
    prep_send,
    prep_timeout,
    prep_write,
    use_registered_file,
)
from aiouring._sockop cimport SocketUse
from aiouring.uapi cimport *

import math
import os
import socket

cdef extern from "Python.h":
    int PySys_Audit(const char *event, const char *format, ...) except -1
    int INT_MAX

cdef extern from "<sys/socket.h>" nogil:
    int MSG_WAITALL, MSG_NOSIGNAL, SOCK_STREAM

cdef extern from "<fcntl.h>" nogil:
    int AT_FDCWD, AT_SYMLINK_NOFOLLOW

cdef extern from "<errno.h>" nogil:
    int ENODATA

cdef enum:
    LINKS_MAX = 128
    PATH_BYTES_MAX = 4096       # with its zero
    KERNEL_AT_NO_AUTOMOUNT = 0x800
    KERNEL_AT_EMPTY_PATH = 0x1000
    KERNEL_STATX_BASIC_STATS = 0x7FF

cdef int64_t OFFSET_MAX = 0x7FFFFFFFFFFFFFFF
TIMEOUT_MAX_S = 1e9
cdef tuple KIND_NAMES = ("open", "read", "write", "send", "recv", "fsync", "close", "statx", "timeout", "bpf")
cdef object socket_socket = socket.socket

# What a loop can do without; 0: what each of our rings has.
cdef int[10] OPCODES = [IORING_OP_OPENAT, 0, 0, 0, 0, IORING_OP_FSYNC, IORING_OP_CLOSE, IORING_OP_STATX, IORING_OP_TIMEOUT, 0]


# -- what the user has of a link ------------------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc_clear                         # its destructor needs the chain
@cython.freelist(16)
cdef class Link:
    """One request of a chain. What open() returns can be the file of later links, and `result` of any other their length or offset."""

    def __init__(self, chain, uint32_t index, str name not None, bint hard):
        if self.name is not None:
            raise RuntimeError("this link is made already")
        self.run = chain._run
        self.index = index
        self.name = name
        self.hard = hard

    @property
    def chain(self):
        """The Chain; None for a link that was pickled or copied without it."""
        return None if self.run is None else self.run.chain()

    @property
    def result(self):
        """Once the chain is over, what it brought; it is raised if it failed or did not run. Before, what stands for that as the length or the
        offset of a later link."""
        if self.run is None or self.run.outcome_list is None or self.index >= <uint32_t>len(self.run.outcome_list):
            return Result(self)
        outcome = self.run.outcome_list[self.index]
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    def __repr__(self):
        return f"<Link {self.index} {self.name}()>"

    def __reduce__(self):
        # An error that says which link it was may go to another process. The chain stays here.
        return loose_link, (self.index, self.name, self.hard)

    def __dealloc__(self):
        if self.run is not None and self.index < self.run.count and self.run.links[self.index].face == <void *>self:
            self.run.links[self.index].face = NULL


def loose_link(index, name, hard):
    """A link without its chain: what an unpickled ChainError has."""
    cdef Link link = Link.__new__(Link)
    link.index = index
    link.name = name
    link.hard = hard
    return link


@cython.final
cdef class Result:
    """Stands for what a link will bring, as the length or the offset of a later one. `+` and `-` with a number make another such."""

    def __init__(self, Link link not None, added=0):
        self.link = link
        self.added = added

    def __add__(self, number):
        return Result(self.link, self.added + number) if isinstance(number, int) else NotImplemented

    __radd__ = __add__

    def __sub__(self, number):
        return Result(self.link, self.added - number) if isinstance(number, int) else NotImplemented

    def __repr__(self):
        return f"<result of {self.link!r}{f' {self.added:+}' if self.added else ''}>"


# -- links ----------------------------------------------------------------------------------------------------------------------------------------

cdef class ChainLinks(Operation):
    """The links of a chain, in their order."""

    def __cinit__(self):
        self.files = []

    cdef object chain(self):
        return None

    cdef str name(self):
        return "Chain"

    cdef str kind_name(self, uint32_t at):
        return KIND_NAMES[<int>self.links[at].kind]

    # -- links ------------------------------------------------------------------------------------------------------------------------

    cdef chain_link *new_link(self, link_kind kind, bint hard) except NULL:
        cdef chain_link *links
        cdef uint32_t room
        if self.state != NEW:
            raise RuntimeError("this chain was submitted already: make another one")
        if self.building:
            raise RuntimeError("a link is being added to this chain, by code that one of its arguments runs")
        if self.count == LINKS_MAX:
            raise ValueError(f"a chain has up to {LINKS_MAX} links")
        if self.count == self.room:
            room = max(4, 2 * self.room)
            links = <chain_link *>PyMem_RawRealloc(self.links, room * sizeof(chain_link))
            if links == NULL:
                raise MemoryError("no memory for a chain's links")
            self.links = links
            self.room = room
        memset(&self.links[self.count], 0, sizeof(chain_link))
        self.links[self.count].kind = kind
        self.links[self.count].hard = hard
        self.links[self.count].file = self.links[self.count].folder = -1
        self.files_before = len(self.files)
        self.count += 1
        self.building = True
        return &self.links[self.count - 1]

    cdef int drop_link(self) except -1:
        """The one that was made last, whose arguments were wrong. What it wanted of others, nobody wants any more."""
        cdef uint32_t at
        cdef chain_link *link
        self.count -= 1
        drop_memory(&self.links[self.count])
        if self.links[self.count].buffer != NULL:
            self.links[self.count].buffer = NULL
            self.buffers.pop()
        for notes in (self.names, self.paths, self.operations):
            if notes is not None:
                (<dict>notes).pop(self.count, None)
        del self.files[self.files_before:]
        self.carries = False
        for at in range(self.count):
            self.links[at].taken = False
        for at in range(self.count):
            link = &self.links[at]
            if link.length_from:
                self.links[link.length_from - 1].taken = True
            if link.offset_from:
                self.links[link.offset_from - 1].taken = True
            if link.length_from or link.offset_from or link.kind == LINK_BPF and not self.operation(at).native():
                self.carries = True
        self.building = False                   # not before: the destructors of what goes are code of the user's as well
        return 0

    # What few links have is in dictionaries by their numbers.
    cdef int note(self, uint32_t at, object name, object path) except -1:
        """What errors call its file, and what requests point to."""
        if self.names is None:
            self.names = {}
            self.paths = {}
        self.names[at] = name
        if path is not None:
            self.paths[at] = path
        return 0

    cdef object name_of(self, uint32_t at):
        return None if self.names is None else self.names.get(at)

    cdef bytes path_of(self, uint32_t at):
        return None if self.paths is None else self.paths.get(at)

    cdef BpfRequest operation(self, uint32_t at):
        return None if self.operations is None else self.operations.get(at)

    cdef Link link_of(self, uint32_t at):
        """The one that the user has, or another one."""
        cdef Link link
        if self.links[at].face != NULL:
            return <Link><PyObject *>self.links[at].face
        link = Link.__new__(Link)
        link.run = self
        link.index = at
        link.name = self.kind_name(at)
        link.hard = self.links[at].hard
        self.links[at].face = <void *>link
        return link

    cdef Link made(self):
        """The link that was begun is whole."""
        self.building = False
        return self.link_of(self.count - 1)

    cdef int check_ours(self, Link link) except -1:
        if link.run is not self:
            raise ValueError(f"{link!r} is a link of another chain")
        return 0

    cdef int add_file(self, object file, bint by_number) except -1:
        """The index of what stands for this file in the chain."""
        cdef ChainFile found
        cdef int index
        cdef bint is_number
        if isinstance(file, Result):
            file = (<Result>file).link
        if isinstance(file, Link):
            self.check_ours(<Link>file)
            index = (<Link>file).index
            if <uint32_t>index >= self.count or self.links[index].kind != LINK_OPEN:
                raise TypeError(f"only what open() returned can be a link's file, not {file!r}")
            return self.links[index].file
        is_number = isinstance(file, int)
        for index in range(len(self.files)):
            found = <ChainFile>self.files[index]
            if (found.named is file or is_number and isinstance(found.named, int) and found.named == file) and found.by_number == by_number:
                return index
        found = ChainFile.__new__(ChainFile)
        found.named = file
        found.by_number = by_number
        if is_number:
            if file < 0 or file > INT_MAX:
                raise ValueError(f"a descriptor is a number from 0 on, not {file}")
        elif isinstance(file, DescriptorView):
            found.descriptor = (<DescriptorView>file).descriptor
        elif isinstance(file, socket_socket):
            found.hold = SocketHold.__new__(SocketHold)
            found.hold.sock = file
        elif not hasattr(file, "fileno"):
            raise TypeError(f"a link's file is a descriptor, an object with fileno(), or the chain's open(), not {type(file).__name__}")
        self.files.append(found)
        return <int>len(self.files) - 1

    cdef int set_number(self, object value, str name, int64_t *plain, uint8_t *source, int64_t *add, int64_t most) except -1:
        """A plain number, or an earlier link's result."""
        cdef Link link
        cdef int64_t number
        if not isinstance(value, (Link, Result)):
            if not isinstance(value, int):
                raise TypeError(f"{name} is a number or an earlier link's result, not {type(value).__name__}")
            number = whole_number(value)
            if number < 0 or number > most:
                raise ValueError(f"{name} is from 0 to {most:,}, not {value:,}")
            plain[0] = number
            return 0
        link = <Link>value if isinstance(value, Link) else (<Result>value).link
        self.check_ours(link)
        if link.index >= self.count - 1:            # the link that is being made is the last one
            raise ValueError(f"{name}: a link takes results of links before it")
        if self.links[link.index].kind not in (LINK_READ, LINK_WRITE, LINK_SEND, LINK_RECV, LINK_BPF):
            raise TypeError(f"{name}: a link of {KIND_NAMES[<int>self.links[link.index].kind]}() has no number to take")
        add[0] = 0 if isinstance(value, Link) else (<Result>value).added
        source[0] = <uint8_t>(link.index + 1)
        self.links[link.index].taken = True
        self.carries = True
        return 0

    cdef int set_buffer(self, chain_link *link, object buffer, object length, int flags) except -1:
        cdef LentBuffer lent = lend(buffer, flags)
        cdef int64_t wanted = lent.view.len
        if wanted > REQUEST_BYTES_MAX:
            raise ValueError(f"one request moves up to {REQUEST_BYTES_MAX:,} bytes, and this buffer has {wanted:,}")
        if self.buffers is None:
            self.buffers = []
        self.buffers.append(lent)
        link.buffer = <char *>lent.view.buf
        link.limit = <uint32_t>lent.view.len
        if length is not None:
            self.set_number(length, "length", &wanted, &link.length_from, &link.length_add, lent.view.len)
        link.wanted = <uint32_t>wanted
        return 0

    cdef int set_position(self, chain_link *link, object offset) except -1:
        link.offset = -1
        if offset is not None:
            self.set_number(offset, "offset", &link.offset, &link.offset_from, &link.offset_add, OFFSET_MAX)
        elif (<ChainFile>self.files[link.file]).descriptor is not None:
            raise ValueError("a file of aiouring.open() keeps its position itself: say offset=")
        return 0

    cdef Link add_open(self, object path, int flags, uint32_t mode, object dir_fd, bint hard):
        """A direct descriptor, which later links take as their file."""
        cdef chain_link *link = self.new_link(LINK_OPEN, hard)
        cdef ChainFile opened = ChainFile()
        cdef uint32_t at = self.count - 1
        try:
            named = plain_path("open", path)
            self.note(at, named, encode_path("open", named))
            link.flags = flags
            link.mode = mode
            if dir_fd is not None:
                link.folder = self.add_file(dir_fd, True)
            PySys_Audit("open", "OOi", <PyObject *>named, <PyObject *>None, flags)
        except BaseException:
            self.drop_link()
            raise
        opened.direct = True
        opened.named = named
        self.files.append(opened)
        link.file = <int>len(self.files) - 1
        return self.made()

    cdef Link add_move(self, link_kind kind, object file, object buffer, object length, object offset, bint whole, bint hard):
        """read, write, send, recv."""
        cdef chain_link *link = self.new_link(kind, hard)
        try:
            if kind == LINK_SEND or kind == LINK_RECV:
                if isinstance(file, (Link, Result, DescriptorView)):
                    raise TypeError(f"{KIND_NAMES[<int>kind]}() is for sockets, not for {type(file).__name__}")
            elif isinstance(file, socket_socket):
                raise TypeError(f"{KIND_NAMES[<int>kind]}() is for files: with a socket use send() and recv()")
            link.file = self.add_file(file, False)
            link.whole = whole
            self.set_buffer(link, buffer, length, PyBUF_WRITABLE if kind == LINK_READ or kind == LINK_RECV else PyBUF_SIMPLE)
            if kind == LINK_READ or kind == LINK_WRITE:
                self.set_position(link, offset)
        except BaseException:
            self.drop_link()
            raise
        return self.made()

    cdef Link add_fsync(self, object file, bint data_only, bint hard):
        """fsync, fdatasync."""
        cdef chain_link *link = self.new_link(LINK_FSYNC, hard)
        try:
            link.file = self.add_file(file, False)
            link.flags = IORING_FSYNC_DATASYNC if data_only else 0
        except BaseException:
            self.drop_link()
            raise
        return self.made()

    cdef Link add_close(self, object file, bint hard):
        """Of what the chain opened, or of a descriptor by its number."""
        cdef chain_link *link = self.new_link(LINK_CLOSE, hard)
        try:
            if isinstance(file, (Link, Result)):
                link.file = self.add_file(file, False)
            elif not isinstance(file, int):
                raise TypeError(f"close() is for what the chain opened and for descriptors by their numbers; {type(file).__name__} "
                                "has a close() of its own, which must hear of it")
            elif file < 0 or file > INT_MAX:
                raise ValueError(f"a descriptor is a number from 0 on, not {file}")
            else:
                link.flags = file
        except BaseException:
            self.drop_link()
            raise
        return self.made()

    cdef Link add_statx(self, object path, object dir_fd, bint follow_symlinks, bint hard):
        """os.stat()."""
        cdef chain_link *link = self.new_link(LINK_STATX, hard)
        cdef uint32_t at = self.count - 1
        try:
            link.memory = PyMem_RawCalloc(1, sizeof(aiouring_statx))
            if link.memory == NULL:
                raise MemoryError("no memory for a link's result")
            link.flags = KERNEL_AT_NO_AUTOMOUNT
            if isinstance(path, (Link, Result)):
                raise TypeError("statx() cannot look at what the chain opened: the kernel has no such request. Give it the path")
            if isinstance(path, (str, bytes)) or hasattr(type(path), "__fspath__"):
                named = plain_path("stat", path)
                self.note(at, named, encode_path("stat", named))
                if dir_fd is not None:
                    link.folder = self.add_file(dir_fd, True)
                if not follow_symlinks:
                    link.flags |= AT_SYMLINK_NOFOLLOW
            else:
                if dir_fd is not None:
                    raise ValueError("stat: can't specify dir_fd without matching path")
                if not follow_symlinks:
                    raise ValueError("stat: cannot use fd and follow_symlinks together")
                link.folder = self.add_file(path, True)
                self.note(at, None, b"")
                link.flags |= KERNEL_AT_EMPTY_PATH
        except BaseException:
            self.drop_link()
            raise
        return self.made()

    cdef Link add_timer(self, object seconds, bint hard):
        """A pause."""
        cdef chain_link *link
        cdef aiouring_timespec *duration
        cdef double wanted = seconds
        if not 0 <= wanted:
            raise ValueError(f"a pause is a time in seconds, not {seconds!r}")
        wanted = min(wanted, TIMEOUT_MAX_S)
        link = self.new_link(LINK_TIMER, hard)
        link.memory = PyMem_RawCalloc(1, sizeof(aiouring_timespec))
        if link.memory == NULL:
            self.drop_link()
            raise MemoryError("no memory for a link's duration")
        duration = <aiouring_timespec *>link.memory
        duration.tv_sec = <int64_t>math.floor(wanted)
        duration.tv_nsec = <int64_t>((wanted - duration.tv_sec) * 1e9)
        return self.made()

    cdef Link add_bpf(self, OpCore op, tuple buffers, object flags, object length, bint hard):
        """A BPF operation."""
        cdef chain_link *link = self.new_link(LINK_BPF, hard)
        cdef BpfRequest request
        cdef int64_t wanted = 0
        try:
            carried = isinstance(length, (Link, Result))
            request = new_bpf_request(op, buffers, flags, None if carried else length)
            if self.operations is None:
                self.operations = {}
            self.operations[self.count - 1] = request
            if carried:
                if not buffers:
                    raise ValueError(f"{op.name}: there is no buffer that could have a length")
                link.limit = <uint32_t>request.first_size()
                self.set_number(length, "length", &wanted, &link.length_from, &link.length_add, link.limit)
            if not request.native():
                self.carries = True
                link.memory = PyMem_RawCalloc(1, sizeof(aiouring_timespec))     # of the request that waits while Python runs it
                if link.memory == NULL:
                    raise MemoryError("no memory for a link's duration")
                (<aiouring_timespec *>link.memory).tv_sec = <int64_t>TIMEOUT_MAX_S
        except BaseException:
            self.drop_link()
            raise
        return self.made()

    # -- requests ------------------------------------------------------------------------------------------------------------------------

    cdef int take_files(self) except -1:
        """At the submission. What was taken before an exception, release() gives back."""
        cdef ChainFile file
        cdef uint32_t at
        self.ring = self.loop.ring
        for at in range(self.count):
            if OPCODES[<int>self.links[at].kind] and not self.ring.supports(OPCODES[<int>self.links[at].kind]):
                raise OSError(ENOSYS, f"this kernel's io_uring has no request for a chain's {self.kind_name(at)}()")
            if self.links[at].kind == LINK_CLOSE and self.links[at].file < 0 and self.loop.has_transport(self.links[at].flags):
                self.loop._ensure_fd_no_transport(self.links[at].flags)
        for file in self.files:
            file.take(self.loop, self)
        put_files(self.files, self.ring)
        return self.use_kept()

    cdef int use_kept(self) except -1:
        """What cancelled receives had left comes before anything that a receive of ours brings."""
        cdef uint32_t at
        cdef SocketHold hold
        for at in range(self.count):
            if self.links[at].kind == LINK_RECV:
                hold = (<ChainFile>self.files[self.links[at].file]).hold
                if hold is not None and hold.use is not None and hold.use.received is not None:
                    self.take_kept(at, hold)
        return 0

    cdef int take_kept(self, uint32_t at, SocketHold hold) except -1:
        cdef chain_link *link = &self.links[at]
        cdef SocketUse use = hold.use
        cdef uint32_t most = link.wanted if link.length_from == 0 else link.limit, size
        cdef bint stream = use.kind == SOCK_STREAM
        while use.received is not None and link.base < most:
            item = use.received[0]
            if isinstance(item, BaseException):
                if link.base == 0:
                    del use.received[0]
                    if not use.received:
                        use.received = None
                    raise item
                break
            data = item[0]
            size = <uint32_t>min(<Py_ssize_t>len(data), <Py_ssize_t>(most - link.base))
            memcpy(link.buffer + link.base, PyBytes_AS_STRING(data), size)
            link.base += size
            if hold.taken is None:
                hold.taken = []
            if stream and size < <uint32_t>len(data):
                use.received[0] = (data[size:], item[1])
                hold.taken.append((at, (data[:size], item[1])))
            else:
                del use.received[0]
                if not use.received:
                    use.received = None
                hold.taken.append((at, item))
            if not stream or not link.whole:
                break
        return 0

    cdef void put_back(self) noexcept:
        """What was left for receives that did not run, or that wanted less, is left again."""
        cdef ChainFile file
        cdef chain_link *link
        cdef SocketHold hold
        cdef uint32_t used
        cdef list back
        for file in self.files:
            hold = file.hold
            if hold is None or hold.taken is None:
                continue
            taken, hold.taken = hold.taken, None
            back = []
            spent = {}
            for at, item in taken:
                link = &self.links[<uint32_t>at]
                used = link.base if link.over and link.result >= 0 else 0
                left = used - spent.get(at, 0)
                if left >= len(item[0]):
                    spent[at] = spent.get(at, 0) + len(item[0])
                elif hold.use.kind == SOCK_STREAM or left <= 0:
                    back.append((item[0][max(left, 0):], item[1]))
                    spent[at] = used
            if back:
                hold.use.received = back + (hold.use.received or [])

    cdef void fill(self, uint32_t at, io_uring_sqe *sqe) noexcept:
        """The one place where a link becomes a request."""
        cdef chain_link *link = &self.links[at]
        cdef ChainFile file = self.files[link.file] if link.file >= 0 else None
        cdef int folder = AT_FDCWD
        cdef char *memory = link.buffer
        if link.folder >= 0:
            folder = (<ChainFile>self.files[link.folder]).fd
        if link.kind == LINK_OPEN:
            prep_openat_direct(sqe, folder, PyBytes_AS_STRING(self.path_of(at)), link.flags, link.mode, file.slot)
            return
        if link.kind == LINK_STATX:
            prep_statx(sqe, folder, PyBytes_AS_STRING(self.path_of(at)), <uint32_t>link.flags, KERNEL_STATX_BASIC_STATS,
                       <aiouring_statx *>link.memory)
            return
        if link.kind == LINK_TIMER:
            prep_timeout(sqe, <aiouring_timespec *>link.memory)
            return
        if link.kind == LINK_BPF:
            self.operation(at).fill(sqe)
            return
        if link.kind == LINK_CLOSE:
            if file is None:
                prep_close(sqe, link.flags)
            else:
                prep_close_direct(sqe, file.slot)
            return
        if link.kind == LINK_READ:
            prep_read(sqe, file.fd, memory, link.wanted, <uint64_t>link.offset)
        elif link.kind == LINK_WRITE:
            prep_write(sqe, file.fd, memory, link.wanted, <uint64_t>link.offset)
        elif link.kind == LINK_SEND:
            prep_send(sqe, file.fd, memory, link.wanted, MSG_WAITALL | MSG_NOSIGNAL)
        elif link.kind == LINK_FSYNC:
            prep_fsync(sqe, file.fd, <uint32_t>link.flags)
        elif link.base and not self.in_hook and (not link.whole or link.base == link.wanted):
            sqe.opcode = IORING_OP_NOP
            return
        elif self.in_hook:
            prep_recv(sqe, file.fd, memory, link.wanted, MSG_WAITALL if link.whole else 0)      # the program goes on behind what is there
        else:
            prep_recv(sqe, file.fd, memory + link.base, link.wanted - link.base, MSG_WAITALL if link.whole else 0)
        use_registered_file(sqe, file.slot)

    # -- how they ended --------------------------------------------------------------------------------------------------------------------

    cdef bint severs(self, uint32_t at) noexcept:
        """Whether the kernel would sever a linked chain by itself where this link fails. An fsync's and a statx's error is nothing to it."""
        return self.links[at].hard or (self.links[at].kind != LINK_FSYNC and self.links[at].kind != LINK_STATX)

    cdef bint by_descriptor(self, uint32_t at) noexcept:
        """Whether it is a statx of an open file."""
        return self.links[at].kind == LINK_STATX and self.links[at].flags & KERNEL_AT_EMPTY_PATH != 0

    cdef bint may_be_refused(self, uint32_t at) noexcept:
        """Whether the kernel may refuse it while it is submitted, with all that it is linked to: a path that is none is looked at then."""
        cdef bytes path = self.path_of(at)
        return path is not None and (len(path) >= PATH_BYTES_MAX or (len(path) == 0 and not self.by_descriptor(at)))

    cdef bint may_be_short(self, uint32_t at) noexcept:
        """Whether it may move less than it was asked for: where somebody takes the result, or reads what nothing follows."""
        cdef chain_link *link = &self.links[at]
        if link.taken or link.hard:
            return True
        if link.kind == LINK_READ or (link.kind == LINK_RECV and link.whole):
            return at + 1 == self.count
        return link.kind != LINK_WRITE and link.kind != LINK_SEND

    cdef bint is_short(self, uint32_t at) noexcept:
        return not self.may_be_short(at) and 0 <= self.links[at].result < <int64_t>self.links[at].wanted

    cdef bint has_failed(self, uint32_t at) noexcept:
        cdef chain_link *link = &self.links[at]
        if not link.over:
            return True
        if link.result < 0:
            return not (link.kind == LINK_TIMER and link.result == -ETIME)
        return self.is_short(at)

    cdef object value_of(self, uint32_t at):
        cdef chain_link *link = &self.links[at]
        if link.kind in (LINK_READ, LINK_WRITE, LINK_SEND, LINK_RECV):
            return link.result
        if link.kind == LINK_STATX:
            return stat_result(<aiouring_statx *>link.memory)
        if link.kind == LINK_BPF:
            return self.operation(at).result()
        return None

    cdef object error_of(self, uint32_t at):
        """The plain OSError of a link that failed or did not run."""
        cdef chain_link *link = &self.links[at]
        cdef int error = <int>-link.result
        if not link.over:
            return OSError(ECANCELED, "it did not run")
        if link.kind == LINK_BPF:
            return self.operation(at).op.error(<int32_t>link.result)
        if link.result >= 0:
            error = EIO if link.kind == LINK_WRITE or link.kind == LINK_SEND else ENODATA
            return OSError(error, f"{link.result} of {link.wanted} bytes")
        name = self.name_of(at)
        return OSError(error, os.strerror(error)) if name is None else OSError(error, os.strerror(error), name)

    cdef int note_ends(self) except -1:
        """What the completions say of files."""
        cdef ChainFile file
        cdef uint32_t at
        if not self.files:
            return 0                        # they were given back
        for at in range(self.count):
            if self.links[at].file < 0 or not self.links[at].over or self.links[at].result < 0:
                continue
            file = self.files[self.links[at].file]
            if self.links[at].kind == LINK_OPEN:
                file.opened = True
            elif self.links[at].kind == LINK_CLOSE:
                file.closed = True
            elif self.links[at].kind == LINK_WRITE and file.descriptor is not None:
                file.descriptor.wrote()
        return 0

    cdef void give_files_back(self) noexcept:
        cdef ChainFile file
        if self.loop is None:
            return
        self.put_back()
        take_files_out(self.files, self.loop, self.ring)
        for file in self.files:
            file.give_back(self.loop)

    cdef void release(self) noexcept:
        """Buffers, paths and files: at the last completion, or when the chain is dropped."""
        cdef uint32_t at
        self.give_files_back()
        for at in range(self.count):
            drop_memory(&self.links[at])
        self.buffers = None
        if self.operations is not None:
            for request in self.operations.values():
                if not (<BpfRequest>request).orphaned:          # else the thread that runs it does that
                    (<BpfRequest>request).release()
        self.files = []
        self.paths = None

    def __dealloc__(self):
        cdef uint32_t at
        for at in range(self.count):
            drop_memory(&self.links[at])
        PyMem_RawFree(self.links)
        self.links = NULL


cdef void drop_memory(chain_link *link) noexcept:
    PyMem_RawFree(link.memory)
    link.memory = NULL
