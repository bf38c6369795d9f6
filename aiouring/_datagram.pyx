"""Datagram transports: UDP and unix datagram sockets.

Used by asyncio.BaseEventLoop.create_datagram_endpoint (through DatagramMixin) and by user code through asyncio.DatagramTransport. Calls
`_transport`, `_loop`, `_op`, `_ring`, `_address` and `_address_cache`.

A receive, internet families: one multishot RECVMSG with provided buffers stays armed. The kernel writes io_uring_recvmsg_out, the sender's
address and the payload into a buffer; the payload is copied once, exactly sized, and the buffer goes back. Unix datagrams may be larger
than those buffers: they come by single RECVMSGs into a buffer of the transport's own. The protocol gets a datagram while its CQE is handled,
which is its place in asyncio's order: before a timer that is due in the same turn. What comes after a pause_reading() waits in `arrivals`
for a ready callback, and as long as something waits there nothing more is asked for: so it stays within what one receive brings.

A send: sendto() queues, and what was sent in a turn goes out at its end, in order: a batch of SEND requests, one batch in flight. All
are tried at once (MSG_DONTWAIT): the kernel must never keep one for later, because a unix datagram that waits inside io_uring has had its
bytes read by the first attempt and goes out empty in the end (seen on 6.18). When the socket takes no more (EAGAIN), the transport waits
with a poll request and sends the rest again. So that nothing overtakes a datagram that has to wait, the requests are then linked to a chain
(IOSQE_IO_LINK), which the first failure breaks; unix datagrams, whose users rely on their order, are always sent so. Chains are not used
throughout because the kernel starts only about one link an enter, so that a busy loop would send one datagram a turn.

Fairness: when the loop's buffers run out (ENOBUFS), a socket that got nothing since it was armed is armed again at once, one that got
something at the end of the turn, so after the starved ones.

Who owns what: DatagramCore is the native state, the shell (DatagramTransport) is what users hold. While a request is in flight its slot
holds the core, and the core holds socket, protocol, the data being sent and all that its SQEs point to. connection_lost comes only after
the last CQE of all requests; the socket is closed right after it, and the core drops shell and protocol.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EAGAIN, EBADF, EINTR
from libc.stdint cimport int32_t, uint32_t, uint64_t

from aiouring._address cimport (
    AF_UNIX,
    iovec,
    knows_family,
    msghdr,
    sockaddr_storage,
    socklen_t,
    to_sockaddr,
    to_sockaddr_blocking,
)
from aiouring._address_cache cimport AddressCache
from aiouring._loop cimport LoopCore
from aiouring._op cimport os_error
from aiouring._prep cimport prep_poll_add, prep_recvmsg, prep_recvmsg_multishot, prep_sendto, use_registered_file
from aiouring._ring cimport BufferRing, Ring
from aiouring._transport cimport PyContext_Enter, PyContext_Exit, TransportCore
from aiouring.uapi cimport *

import asyncio
import socket
import sys
import warnings
from asyncio import selector_events

from aiouring._address import HostNotLiteral
from aiouring._transport import SocketShell

cdef extern from "<sys/socket.h>" nogil:
    int MSG_DONTWAIT

cdef extern from "<errno.h>" nogil:
    int ENOTSOCK

cdef extern from "<poll.h>" nogil:
    enum:
        POLLOUT

cdef enum:
    BATCH_MAX = 32                      # datagrams in flight at once
    NAME_BYTES = 128                    # sizeof(struct sockaddr_storage)
    UNIX_BUFFER_BYTES = 256 * 1024      # what asyncio passes to recvfrom(); a longer datagram is cut off there as well
    TAG_RECEIVE = BATCH_MAX             # tags below it: a send, by its place in the batch
    TAG_ROOM = BATCH_MAX + 1
    QUEUE_COMPACT_AT = 1024
    DATAGRAM_BYTES_MAX = 1 << 30

cdef double ROOM_RETRY_SECONDS = 0.001
cdef object UNSET = object()

# Since 3.13 asyncio sends empty datagrams, and counts a header for each datagram in the write buffer.
cdef bint SENDS_EMPTY = sys.version_info >= (3, 13)
cdef Py_ssize_t HEADER_BYTES = 8 if sys.version_info >= (3, 13) else 0

cdef struct send_request:
    uint64_t request                    # 0: not in flight
    Py_ssize_t at                       # its place in the queue


cdef class DatagramCore(TransportCore):
    # writes_after_loss is as asyncio's _conn_lost here: not 0 from the time when connection_lost is due; it counts later writes.
    cdef object address, peername
    cdef int family
    cdef int file_index                 # in file_ring's table of registered files, -1: not there
    cdef Ring file_ring
    cdef bint connected                 # datagrams go out without an address
    cdef bint reading, delivery_scheduled, aborted
    cdef bint dropping                  # what could not be sent yet is not sent any more
    # Receiving.
    cdef uint64_t receive_request
    cdef BufferRing receive_buffers     # what receive_request was armed with
    cdef uint32_t received_since_arming
    cdef msghdr receive_header
    cdef iovec receive_payload
    cdef sockaddr_storage receive_name
    cdef char *own_buffer               # for AF_UNIX
    cdef list arrivals                  # not yet handed to the protocol: (data, sender), or the number of an error
    # Sending.
    cdef list queue                     # (data, sockaddr or None) in order, from queue_head on; None: sent
    cdef Py_ssize_t queue_head
    cdef send_request batch[BATCH_MAX]
    cdef uint32_t batch_left            # CQEs that the batch in flight still owes
    cdef uint64_t room_request          # the poll request that waits for room
    cdef object room_timer              # the same where polling does not help
    cdef bint congested                 # the socket took no more, and the queue has not been empty since
    cdef bint refused                   # the socket took no more in this batch
    cdef bint progress                  # something went out since the last wait for room

    def __cinit__(self):
        self.queue = []
        self.arrivals = []
        self.file_index = -1

    def __dealloc__(self):
        PyMem_RawFree(self.own_buffer)

    @staticmethod
    cdef int complete(object owner, uint32_t tag, int32_t res, uint32_t cqe_flags) except -1:
        cdef DatagramCore self = <DatagramCore>owner
        if tag == TAG_RECEIVE:
            return self.received(res, cqe_flags)
        if tag == TAG_ROOM:
            self.room_request = 0
            return self.room_found()
        return self.sent(tag, res)

    cdef int flush(self) except -1:
        if self.receive_request == 0 and self.wants_datagrams():
            self.arm_receive()
        if self.batch_left == 0 and len(self.queue) and not self.waits_for_room():
            self.send_batch()
        return 0

    # -- receiving --------------------------------------------------------------------------------------------------------------------

    cdef bint wants_datagrams(self) noexcept:
        return self.reading and not self.paused and not self.closing and len(self.arrivals) == 0

    def start(self):
        if not self.closing:
            self.reading = True
            self.loop.schedule_flush(self)

    cdef int register_file(self) except -1:
        # An endpoint lives long and makes a request for each datagram that it sends. A loop that moved has a new ring, with a new table.
        if self.file_ring is not self.loop.ring:
            self.file_ring = self.loop.ring
            self.file_index = self.file_ring.register_file(self.fd)
        return 0

    cdef int arm_receive(self) except -1:
        cdef io_uring_sqe *sqe
        self.register_file()
        self.received_since_arming = 0
        self.receive_header.msg_namelen = NAME_BYTES
        if self.family == AF_UNIX:
            if self.own_buffer == NULL:
                self.own_buffer = <char *>PyMem_RawMalloc(UNIX_BUFFER_BYTES)
                if self.own_buffer == NULL:
                    raise MemoryError()
                self.receive_payload.iov_base = self.own_buffer
                self.receive_payload.iov_len = UNIX_BUFFER_BYTES
                self.receive_header.msg_name = &self.receive_name
                self.receive_header.msg_iov = &self.receive_payload
                self.receive_header.msg_iovlen = 1
            sqe = self.loop.ops.begin(self, DatagramCore.complete, TAG_RECEIVE)
            prep_recvmsg(sqe, self.fd, &self.receive_header, 0)
            use_registered_file(sqe, self.file_index)
        else:
            self.receive_buffers = self.loop.get_datagram_buffers()
            sqe = self.loop.ops.begin(self, DatagramCore.complete, TAG_RECEIVE)
            prep_recvmsg_multishot(sqe, self.fd, &self.receive_header, self.receive_buffers.group)
            use_registered_file(sqe, self.file_index)
        self.receive_request = sqe.user_data
        return 0

    cdef int received(self, int32_t res, uint32_t cqe_flags) except -1:
        if not cqe_flags & IORING_CQE_F_MORE:
            self.receive_request = 0
        try:
            if cqe_flags & IORING_CQE_F_BUFFER:
                self.take_datagram(res, cqe_flags)
            elif res >= 0:
                if self.own_buffer != NULL and not self.closing:
                    self.arrived((PyBytes_FromStringAndSize(self.own_buffer, res),
                                  self.sender(&self.receive_name, self.receive_header.msg_namelen)))
            elif res != -ENOBUFS and res != -ECANCELED and res != -EAGAIN and res != -EINTR and not self.closing:
                self.arrived(res)
        finally:
            if self.receive_request == 0:
                self.receive_ended(res)
        return 0

    cdef int receive_ended(self, int32_t res) except -1:
        if self.closing:
            return self.finish()
        if not self.wants_datagrams():
            return 0                    # deliver() or resume_reading() goes on
        if res == -EBADF or res == -ENOTSOCK:
            return 0                    # somebody closed the descriptor under us; asyncio hears no more of it either
        if res == -ENOBUFS and self.received_since_arming:
            return self.loop.schedule_flush(self)
        return self.arm_receive()

    cdef int take_datagram(self, int32_t res, uint32_t cqe_flags) except -1:
        cdef BufferRing buffers = self.receive_buffers
        cdef char *buffer = buffers.take(cqe_flags)
        cdef io_uring_recvmsg_out *out = <io_uring_recvmsg_out *>buffer
        cdef Py_ssize_t room = res - <Py_ssize_t>(sizeof(io_uring_recvmsg_out) + NAME_BYTES), length
        cdef object data = None, sender = None
        try:
            if self.closing or room < 0:
                return 0
            # A datagram longer than the buffer (MSG_TRUNC in out.flags) is cut off, as by recvfrom().
            length = out.payloadlen if out.payloadlen < room else room
            data = PyBytes_FromStringAndSize(buffer + sizeof(io_uring_recvmsg_out) + NAME_BYTES, length)
            sender = self.sender(<sockaddr_storage *>(buffer + sizeof(io_uring_recvmsg_out)), out.namelen)
        finally:
            buffers.give_back(cqe_flags)
        return self.arrived((data, sender))

    cdef object sender(self, sockaddr_storage *name, socklen_t name_bytes):
        return self.loop.get_addresses().address_of(name, NAME_BYTES if name_bytes > NAME_BYTES else name_bytes)

    cdef int arrived(self, object item) except -1:
        self.received_since_arming += 1
        if self.paused or len(self.arrivals):
            self.arrivals.append(item)
            return self.schedule_delivery()
        return self.hand_over_in_context(item)

    cdef int hand_over_in_context(self, object item) except -1:
        PyContext_Enter(self.context)
        try:
            self.hand_over(item)
        finally:
            PyContext_Exit(self.context)
        return 0

    cdef int hand_over(self, object item) except -1:
        """Give the protocol a datagram or tell it of an error. Runs in the transport's context."""
        try:
            if isinstance(item, tuple):
                data, sender = <tuple>item
                self.protocol.datagram_received(data, sender)
            else:
                self.protocol.error_received(os_error(item))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            method = "datagram_received" if isinstance(item, tuple) else "error_received"
            self.report(exc, f"Exception in callback protocol.{method}()")
        return 0

    cdef int schedule_delivery(self) except -1:
        if not self.delivery_scheduled and not self.paused and not self.closing and len(self.arrivals):
            self.delivery_scheduled = True
            self.loop.add_ready(self.deliver, (), self.context)
        return 0

    def deliver(self):
        """Hand over what came after a pause, in order, as long as nobody pauses again or closes. Runs in the transport's context."""
        cdef list arrivals = self.arrivals
        cdef Py_ssize_t index = 0
        self.delivery_scheduled = False
        try:
            while index < len(arrivals) and not self.paused and not self.closing:
                item = arrivals[index]
                index += 1
                self.hand_over(item)
        finally:
            del arrivals[:index]
            self.schedule_delivery()        # a KeyboardInterrupt came between
            if self.receive_request == 0 and self.wants_datagrams():
                self.loop.schedule_flush(self)

    cdef int reading_paused(self) except -1:
        return self.loop.ops.cancel(self.receive_request)

    cdef int reading_resumed(self) except -1:
        self.schedule_delivery()
        return self.loop.schedule_flush(self)

    # -- sending ----------------------------------------------------------------------------------------------------------------------

    def sendto(self, data, addr):
        cdef bytes name = None
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not SENDS_EMPTY and not data:
            return
        if self.address:
            if addr is not None and addr != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            addr = self.address
        if (self.writes_after_loss and self.address) or self.file is None:
            self.count_lost_write("socket.send() raised exception.")
            return
        self.loop.ops.check()
        if self.aborted and self.dropping:
            return
        try:
            if not self.connected and not (addr is None and self.peername is not None):
                name = self.name_of(addr)
            if not PyBytes_CheckExact(data):
                data = bytes(data)      # the caller may change it before it is sent
        except OSError as exc:
            self.protocol.error_received(exc)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:
            self.fatal_error(exc, "Fatal write error on datagram transport")
            return
        self.queue.append((data, name))
        self.unsent_bytes += PyBytes_GET_SIZE(data) + HEADER_BYTES
        if self.batch_left == 0 and not self.waits_for_room():
            self.loop.schedule_flush(self)
        if self.unsent_bytes > self.high_water_bytes:
            self.pause_protocol()

    cdef bytes name_of(self, object addr):
        """The sockaddr of an address. A host name is looked up here and now, as the socket's sendto() does."""
        cdef AddressCache addresses = self.loop.get_addresses()
        cdef sockaddr_storage storage
        cdef socklen_t length = 0
        cdef bytes name = addresses.name_of(addr, self.family)
        if name is not None:
            return name
        try:
            to_sockaddr(addr, self.family, &storage, &length)
        except HostNotLiteral:
            to_sockaddr_blocking(addr, self.family, &storage, &length)
            return PyBytes_FromStringAndSize(<char *>&storage, length)      # the next look-up may find another
        name = PyBytes_FromStringAndSize(<char *>&storage, length)
        addresses.note_target(addr, name)
        return name

    cdef int send_batch(self) except -1:
        cdef bint chained = self.congested or self.family == AF_UNIX
        cdef Py_ssize_t at = self.queue_head, end = len(self.queue)
        cdef Py_ssize_t length
        cdef uint32_t index = 0
        cdef send_request *send
        cdef io_uring_sqe *sqe
        cdef io_uring_sqe *previous = NULL
        self.register_file()
        self.loop.ops.reserve(BATCH_MAX)        # so that no enter comes between the links, nor anything between the datagrams
        while at < end and index < BATCH_MAX:
            datagram = self.queue[at]
            if datagram is not None:
                data, name = <tuple>datagram
                send = &self.batch[index]
                send.at = at
                sqe = self.loop.ops.begin(self, DatagramCore.complete, index)
                length = PyBytes_GET_SIZE(data)
                if length > DATAGRAM_BYTES_MAX:
                    length = DATAGRAM_BYTES_MAX         # the SQE's field has 32 bits; the kernel refuses that size as well (EMSGSIZE)
                prep_sendto(sqe, self.fd, PyBytes_AS_STRING(data), <uint32_t>length, <uint32_t>MSG_DONTWAIT,
                            NULL if name is None else PyBytes_AS_STRING(name), 0 if name is None else <uint16_t>PyBytes_GET_SIZE(name))
                use_registered_file(sqe, self.file_index)
                send.request = sqe.user_data
                self.batch_left += 1
                if previous != NULL and chained:
                    previous.flags |= <uint8_t>IOSQE_IO_LINK
                previous = sqe
                index += 1
            at += 1
        return 0

    cdef int sent(self, uint32_t index, int32_t res) except -1:
        cdef send_request *send = &self.batch[index]
        send.request = 0
        self.batch_left -= 1
        if res == -EAGAIN:
            self.refused = self.congested = True
            if self.aborted:
                self.dropping = True
        if not self.dropping and (res == -ECANCELED or res == -EINTR or res == -EAGAIN):
            res = 0                     # it stays where it is in the queue and goes out with the next batch
        else:
            self.unsent_bytes -= PyBytes_GET_SIZE((<tuple>self.queue[send.at])[0]) + HEADER_BYTES
            self.queue[send.at] = None
            self.progress = True
        if self.batch_left == 0:
            self.batch_ended()
        try:
            if res < 0 and res != -ECANCELED and res != -EAGAIN:
                self.hand_over_in_context(res)
            if self.batch_left == 0 and not self.aborted:
                self.resume_protocol()
        finally:
            if self.closing:
                self.finish()
        return 0

    cdef int batch_ended(self) except -1:
        cdef Py_ssize_t end = len(self.queue)
        cdef bint refused = self.refused
        self.refused = False
        while self.queue_head < end and self.queue[self.queue_head] is None:
            self.queue_head += 1
        if self.dropping or self.queue_head == end:
            return self.clear_queue()
        if self.queue_head >= QUEUE_COMPACT_AT and self.queue_head * 2 > end:
            del self.queue[:self.queue_head]
            self.queue_head = 0
        return self.wait_for_room() if refused else self.loop.schedule_flush(self)

    cdef int clear_queue(self) except -1:
        self.queue.clear()
        self.queue_head = 0
        self.unsent_bytes = 0
        self.congested = False
        return 0

    cdef bint waits_for_room(self) noexcept:
        return self.room_request != 0 or self.room_timer is not None

    cdef int wait_for_room(self) except -1:
        cdef io_uring_sqe *sqe
        if self.progress:
            self.progress = False
            sqe = self.loop.ops.begin(self, DatagramCore.complete, TAG_ROOM)
            prep_poll_add(sqe, self.fd, POLLOUT)
            self.room_request = sqe.user_data
        else:
            # A unix socket that is not connected counts as writable even when the peer's queue is full, and nothing tells when it is
            # not. asyncio spins there.
            self.room_timer = self.loop.call_later(ROOM_RETRY_SECONDS, self.room_timer_fired)
        return 0

    def room_timer_fired(self):
        self.room_timer = None
        self.progress = True
        self.room_found()

    cdef int room_found(self) except -1:
        if self.closing:
            self.finish()
        if len(self.queue):
            self.loop.schedule_flush(self)
        return 0

    # -- the end ----------------------------------------------------------------------------------------------------------------------

    cpdef close(self):
        if self.closing:
            return
        self.loop.check_open()
        self.loop.ops.check()
        self.closing = True
        # What waits for the end of this turn would in asyncio have been sent by now, so it does not count as a filled buffer.
        if self.batch_left == 0 and not self.waits_for_room():
            self.writes_after_loss += 1
        self.loop.ops.cancel(self.receive_request)
        self.finish()

    cdef int force_close(self, object error) except -1:
        """End without waiting for what the socket does not take at once. What was sent in this turn gets one attempt."""
        if self.aborted or self.lost_scheduled:
            return 0
        self.loop.check_open()
        self.loop.ops.check()
        self.aborted = self.closing = True
        if self.writes_after_loss == 0:
            self.error = error
        self.writes_after_loss += 1
        if not self.batch_left and not self.waits_for_room():
            self.loop.ops.cancel(self.receive_request)
        else:
            self.dropping = True
            self.cancel_requests()
            if self.room_timer is not None:
                self.room_timer.cancel()
                self.room_timer = None
            if self.batch_left == 0:
                self.clear_queue()
        return self.finish()

    cdef int cancel_requests(self) except -1:
        cdef bint by_file = self.file_index >= 0 and self.file_ring is self.loop.ring
        cdef int index
        if not by_file:
            self.loop.ops.cancel(self.receive_request)
            self.loop.ops.cancel(self.room_request)
            for index in range(BATCH_MAX):
                self.loop.ops.cancel(self.batch[index].request)
            return 0
        self.loop.ops.withdraw(self.receive_request)
        self.loop.ops.withdraw(self.room_request)
        for index in range(BATCH_MAX):
            self.loop.ops.withdraw(self.batch[index].request)
        return self.loop.ops.cancel_file(self.file_index)

    cdef bint receiving(self) noexcept:
        return self.receive_request != 0

    cdef bint sending_now(self) noexcept:
        return self.batch_left != 0

    cdef bint idle(self) noexcept:
        # What is left to send may wait for room, and then for the end of a turn.
        return not self.receive_request and not self.room_request and not self.batch_left and not len(self.queue)

    cdef int finish(self) except -1:
        TransportCore.finish(self)
        if self.lost_scheduled and self.writes_after_loss == 0:
            self.writes_after_loss = 1
        return 0

    cdef int let_go(self, object shell) except -1:
        self.arrivals.clear()
        return 0

    cdef int close_file(self) except -1:
        # Also for a transport that was dropped unclosed. Else the table would keep the socket open.
        if self.file_index >= 0 and self.file_ring is self.loop.ring:
            self.file_ring.unregister_file(self.file_index)
        self.file_index = -1
        return TransportCore.close_file(self)


class DatagramTransport(SocketShell, asyncio.Transport, asyncio.DatagramTransport):
    """A datagram socket. Made by the loop's create_datagram_endpoint().

    As in asyncio it is an asyncio.Transport as well, so it can pause reading; what belongs to streams raises NotImplementedError.
    """

    __slots__ = ("_core", "_loop", "__weakref__")

    def __init__(self, LoopCore loop not None, sock, protocol, address=None, waiter=None, extra=None):
        cdef DatagramCore core = DatagramCore.__new__(DatagramCore)
        self._core = core
        asyncio.Transport.__init__(self, extra)
        self._loop = loop
        core.attach(self, loop, sock, protocol, None)
        core.family = sock.family
        core.address = address
        self._note_addresses(sock)
        core.peername = self._extra["peername"]
        core.connected = bool(core.peername)
        loop._transports[core.fd] = self
        core.announce(waiter)

    def sendto(self, data, addr=None):
        """Send a datagram, at the end of this turn, in order. Exact bytes objects are not copied.

        `addr` may be left out where the socket is connected or the endpoint has a remote address. A host name in it is looked up
        at once, which blocks, as in asyncio. Errors of the network go to the protocol's error_received().
        """
        (<DatagramCore>self._core).sendto(data, addr)


class PolledDatagramTransport(selector_events._SelectorDatagramTransport, asyncio.DatagramTransport):
    """asyncio's own transport on poll requests, for families whose addresses only the socket module can read (netlink, CAN, vsock)."""

    def __repr__(self):
        info = [type(self).__name__]
        if self._sock is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self._sock_fd}")
        if self._sock is not None:
            info.append(f"write=<{'polling' if self._buffer else 'idle'}, bufsize={self.get_write_buffer_size()}>")
        return "<" + " ".join(info) + ">"


class DatagramMixin:
    """Datagram endpoints of the loop: the hook that asyncio.BaseEventLoop.create_datagram_endpoint() calls."""

    async def create_datagram_endpoint(self, protocol_factory, local_addr=None, remote_addr=None, *, reuse_address=UNSET, **arguments):
        """As asyncio's, and `reuse_address` is taken as asyncio took it before 3.11: ValueError if true, DeprecationWarning if false."""
        if reuse_address is not UNSET:
            if reuse_address:
                raise ValueError("reuse_address=True is refused: with SO_REUSEADDR on a UDP socket any process may bind the same address "
                                 "and take this one's datagrams. Leave it out; use reuse_port=True where several sockets shall share a port")
            warnings.warn("reuse_address has had no effect since Python 3.5.10 and asyncio took it away in 3.11: leave it out",
                          DeprecationWarning, stacklevel=2)
        sock = arguments.get("sock")
        if sock is not None and sock.type == socket.SOCK_STREAM:
            # The wording of asyncio since 3.13, and the one before it, which programs and tests look for.
            raise ValueError(f"A datagram socket was expected (A UDP Socket was expected, got {sock!r})")
        return await super().create_datagram_endpoint(protocol_factory, local_addr, remote_addr, **arguments)

    def _make_datagram_transport(self, sock, protocol, address=None, waiter=None, extra=None):
        self._ensure_fd_no_transport(sock)
        make = DatagramTransport if knows_family(sock.family) else PolledDatagramTransport
        return make(self, sock, protocol, address, waiter, extra)
